#include "outrider/model/qwen2.h"

#include "outrider/model/config_meaning.h"
#include "outrider/model/sliding_window.h"

namespace outrider {
namespace {

LayerFactory qwen2_layers(const ModelConfig& config, at::TensorOptions options) {
  check_meaning(config, {"sliding_window", "use_sliding_window", "layer_types"});
  auto shape = layer_shape(config);
  shape.attention.bias = true;
  shape.attention.output_bias = false;
  const auto windows = windows_by_layer(config);
  return [=](int64_t index) {
    auto own = shape;
    own.sliding_window = windows[static_cast<size_t>(index)];
    return std::make_shared<nn::DecoderLayer>(own, options);
  };
}

}  // namespace

Qwen2ForCausalLM::Qwen2ForCausalLM(const ModelConfig& config, at::TensorOptions options)
    : DecoderOnlyLM(config, options, qwen2_layers(config, options)) {}

}  // namespace outrider
