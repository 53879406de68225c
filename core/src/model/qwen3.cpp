#include "outrider/model/qwen3.h"

#include <ATen/ATen.h>

#include "outrider/model/config_meaning.h"
#include "outrider/model/sliding_window.h"

namespace outrider {
namespace {

class NormalisedAttention : public nn::Attention {
 public:
  NormalisedAttention(const nn::AttentionShape& s, double eps, at::TensorOptions options)
      : nn::Attention(s, options) {
    q_norm_ = register_module("q_norm", std::make_shared<nn::RmsNorm>(s.head_dim, eps, options));
    k_norm_ = register_module("k_norm", std::make_shared<nn::RmsNorm>(s.head_dim, eps, options));
  }

  std::optional<nn::FewRowsProjections> few_rows_projections() const override {
    auto plain = plain_projections();
    if (plain) {
      plain->query_norm = {q_norm_->weight, q_norm_->eps};
      plain->key_norm = {k_norm_->weight, k_norm_->eps};
    }
    return plain;
  }

 protected:
  nn::QueryKeyValue heads(const ops::LinearInput& x) const override {
    const auto plain = nn::Attention::heads(x);
    return {q_norm_->forward(plain.query), k_norm_->forward(plain.key), plain.value};
  }

 private:
  std::shared_ptr<nn::RmsNorm> q_norm_, k_norm_;
};

LayerFactory qwen3_layers(const ModelConfig& config, at::TensorOptions options) {
  check_meaning(config, {"attention_bias", "sliding_window", "use_sliding_window", "layer_types"});
  const auto shape = layer_shape(config);
  const auto windows = windows_by_layer(config);
  return [=](int64_t index) {
    auto own = shape;
    own.sliding_window = windows[static_cast<size_t>(index)];
    return std::make_shared<nn::DecoderLayer>(
        own, std::make_shared<NormalisedAttention>(own.attention, own.rms_norm_eps, options),
        std::make_shared<nn::SwiGluMlp>(own.attention.hidden_size, own.intermediate_size,
                                        own.mlp_bias, options),
        options);
  };
}

}  // namespace

Qwen3ForCausalLM::Qwen3ForCausalLM(const ModelConfig& config, at::TensorOptions options)
    : DecoderOnlyLM(config, options, qwen3_layers(config, options)) {}

}  // namespace outrider
