#include "check/check_base.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "outrider/host/checkpoint.h"
#include "outrider/model/base_model_registry.h"

namespace outrider::check {
namespace {

ModelConfig tiny_config() {
  return ModelConfig::from_json({{"architectures", {"LlamaForCausalLM"}},
                                 {"model_type", "llama"},
                                 {"vocab_size", 97},
                                 {"hidden_size", 32},
                                 {"intermediate_size", 64},
                                 {"num_hidden_layers", 8},
                                 {"num_attention_heads", 4},
                                 {"num_key_value_heads", 2},
                                 {"head_dim", 8},
                                 {"max_position_embeddings", 256},
                                 {"rms_norm_eps", 1e-5},
                                 {"rope_theta", 10000.0},
                                 {"hidden_act", "silu"},
                                 {"tie_word_embeddings", false}},
                                "the base of the checks");
}

// Wide enough that logits differ clearly between tokens; norms near one.
void fill(CausalLM& model) {
  const at::NoGradGuard no_grad;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{20});
  for (auto& parameter : model.parameters()) {
    const auto noise = at::randn(parameter.sizes(), generator, at::kFloat);
    const bool is_norm = parameter.dim() == 1;
    parameter.copy_(is_norm ? 1 + 0.1 * noise
                            : noise * (1.5 / std::sqrt(static_cast<double>(parameter.size(-1)))));
  }
}

std::shared_ptr<CausalLM> tiny_model(at::ScalarType dtype, at::Device device) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  auto model = BaseModelRegistry::instance().create(tiny_config(), options);
  fill(*model);
  model->eval();
  return model;
}

}  // namespace

std::shared_ptr<CausalLM> CheckBase::model(at::ScalarType dtype, at::Device device) const {
  if (folder_.empty()) return tiny_model(dtype, device);
  LoadOptions options;
  options.dtype = dtype;
  options.device = device;
  return from_pretrained(folder_, options);
}

at::Tensor some_tokens(int64_t rows, int64_t length, int64_t vocab_size, uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randint(0, vocab_size, {rows, length}, generator, at::kLong);
}

}  // namespace outrider::check
