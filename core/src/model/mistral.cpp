#include "outrider/model/mistral.h"

#include "outrider/model/config_meaning.h"
#include "outrider/model/sliding_window.h"

namespace outrider {
namespace {

constexpr int64_t kWindowIfAbsent = 4096;

LayerFactory mistral_layers(const ModelConfig& config, at::TensorOptions options) {
  check_meaning(config, {"sliding_window", "use_sliding_window", "layer_types"});
  auto shape = layer_shape(config);
  shape.sliding_window = window_of_all_layers(config, kWindowIfAbsent);
  return same_layers(shape, options);
}

}  // namespace

MistralForCausalLM::MistralForCausalLM(const ModelConfig& config, at::TensorOptions options)
    : DecoderOnlyLM(config, options, mistral_layers(config, options)) {}

}  // namespace outrider
