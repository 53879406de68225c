#include "model/stored_base_outputs.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "outrider/error.h"
#include "outrider/problems.h"
#include "outrider/text.h"

namespace outrider {
namespace {

class ShapeCheck {
 public:
  explicit ShapeCheck(const at::Tensor& input_ids)
      : batch_(input_ids.size(0)), length_(input_ids.size(1)) {}

  void expect(const char* name, const at::Tensor& tensor, int64_t size, bool required) {
    if (!tensor.defined()) {
      if (required) problems_.add(fmt::format("{} is missing", name));
      return;
    }
    const std::vector<int64_t> wanted{batch_, length_, size};
    if (tensor.sizes() == wanted && tensor.is_floating_point()) return;
    problems_.add(fmt::format("{} is {} [{}], expected floating point [{}]", name,
                              at::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ","),
                              fmt::join(wanted, ",")));
  }

  void finish() const {
    problems_.throw_in_a_line(
        ErrorCode::kInvalidData, "the stored base outputs do not fit",
        "they must come from this base, this batch and the layers that the drafts read");
  }

 private:
  int64_t batch_, length_;
  Problems problems_;
};

std::set<int64_t> ordered_layers(const HiddenStateRequest& request) {
  return {request.layer_outputs.begin(), request.layer_outputs.end()};
}

void check(const StoredBaseOutputs& stored, const at::Tensor& input_ids, const ModelConfig& config,
           size_t layers) {
  const int64_t h = config.hidden_size;
  ShapeCheck shapes(input_ids);
  shapes.expect("base_model_hidden_states", stored.last_hidden, h, /*required=*/true);
  shapes.expect("aux_hidden_states", stored.layer_outputs, static_cast<int64_t>(layers) * h,
                /*required=*/layers > 0);
  shapes.expect("base_model_input_embeds", stored.input_embeddings, h, /*required=*/false);
  shapes.expect("base_model_logits", stored.logits, config.vocab_size, /*required=*/false);
  shapes.finish();
}

}  // namespace

BaseOutputs base_outputs_from(const StoredBaseOutputs& stored, const at::Tensor& input_ids,
                              const CausalLM& model, const HiddenStateRequest& request) {
  const auto layers = ordered_layers(request);
  check(stored, input_ids, model.config(), layers.size());
  const at::NoGradGuard no_grad;
  const auto fitted = [&](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.to(model.device(), model.dtype()) : tensor;
  };
  BaseOutputs outputs{.head = std::make_shared<const LmHead>(model.head())};
  const auto hidden = fitted(stored.last_hidden);
  outputs.last_hidden = stored.is_prenorm ? model.final_norm(hidden) : hidden;
  if (stored.is_prenorm) outputs.last_hidden_prenorm = hidden;
  const auto aux = fitted(stored.layer_outputs);
  int64_t begin = 0;
  for (const int64_t layer : layers) {
    const int64_t end = begin + model.config().hidden_size;
    outputs.layer_outputs[layer] = aux.slice(2, begin, end);
    begin = end;
  }
  outputs.logits = fitted(stored.logits);
  outputs.input_embeddings = fitted(stored.input_embeddings);
  if (request.input_embeddings && !outputs.input_embeddings.defined()) {
    outputs.input_embeddings = model.head().embedding(input_ids);
  }
  return outputs;
}

}  // namespace outrider
