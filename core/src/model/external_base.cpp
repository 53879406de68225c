#include "outrider/model/external_base.h"

#include "outrider/error.h"

namespace outrider {

ExternalBase::ExternalBase(ModelConfig config, Owner owner, at::Device device, at::ScalarType dtype)
    : CausalLM(std::move(config)), owner_(std::move(owner)), device_(device), dtype_(dtype) {}

BaseOutputs ExternalBase::run_base(const BasePass&) {
  throw Error(ErrorCode::kUnsupported, "this base is run by the program that owns it",
              "give its outputs to the drafts");
}

void ExternalBase::drop_decoder_layers() {}

const LmHead& ExternalBase::head() const { return head_.emplace(owner_.head()); }

at::Tensor ExternalBase::final_norm(const at::Tensor& hidden) const {
  return owner_.final_norm(hidden);
}

at::Tensor ExternalBase::parameter(const std::string& hugging_face_name) const {
  return owner_.parameter(hugging_face_name);
}

}  // namespace outrider
