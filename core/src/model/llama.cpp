#include "outrider/model/llama.h"

#include "outrider/model/config_meaning.h"

namespace outrider {
namespace {

LayerFactory llama_layers(const ModelConfig& config, at::TensorOptions options) {
  check_meaning(config, {"attention_bias", "mlp_bias"});
  return same_layers(layer_shape(config), options);
}

}  // namespace

LlamaForCausalLM::LlamaForCausalLM(const ModelConfig& config, at::TensorOptions options)
    : DecoderOnlyLM(config, options, llama_layers(config, options)) {}

}  // namespace outrider
