#pragma once

#include <functional>
#include <string>

#include "outrider/api.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// A base that lives outside of Outrider, such as a module in Python: its owner runs it and hands
/// to the drafts what it gave. It owns no parameter but those of attached drafts.
class OUTRIDER_API ExternalBase : public CausalLM {
 public:
  /// What the owner answers. `head` is asked again each time: its tensors may move.
  struct Owner {
    std::function<LmHead()> head;
    std::function<at::Tensor(const at::Tensor&)> final_norm;
    std::function<at::Tensor(const std::string&)> parameter;
  };

  ExternalBase(ModelConfig config, Owner owner, at::Device device, at::ScalarType dtype);

  /// Throws kUnsupported: the owner runs the base.
  BaseOutputs run_base(const BasePass& pass) override;
  /// The owner drops them.
  void drop_decoder_layers() override;

  const LmHead& head() const override;
  at::Tensor final_norm(const at::Tensor& hidden) const override;
  at::Tensor parameter(const std::string& hugging_face_name) const override;
  at::Device device() const override { return device_; }
  at::ScalarType dtype() const override { return dtype_; }

 private:
  Owner owner_;
  at::Device device_;
  at::ScalarType dtype_;
  mutable std::optional<LmHead> head_;
};

}  // namespace outrider
