// A base architecture of a plugin, and the class that mode eagle's drafts have on it.
#include <ATen/ATen.h>

#include "outrider/model/config_meaning.h"
#include "outrider/model/decoder_only_lm.h"
#include "outrider/nn/linear.h"
#include "outrider/sdk/plugin.h"

namespace {

using outrider::nn::Linear;

/// down(gelu(gate(x)) · up(x)).
class GegluMlp final : public outrider::nn::Mlp {
 public:
  GegluMlp(int64_t hidden_size, int64_t intermediate_size, at::TensorOptions options) {
    const auto add = [&](const char* name, int64_t in, int64_t out) {
      return register_module(name, std::make_shared<Linear>(in, out, /*with_bias=*/false, options));
    };
    gate_ = add("gate_proj", hidden_size, intermediate_size);
    up_ = add("up_proj", hidden_size, intermediate_size);
    down_ = add("down_proj", intermediate_size, hidden_size);
  }

  at::Tensor forward(const at::Tensor& x) const override {
    return down_->forward(at::gelu(gate_->forward(x)) * up_->forward(x));
  }

 private:
  std::shared_ptr<Linear> gate_, up_, down_;
};

outrider::LayerFactory layers(const outrider::ModelConfig& config, at::TensorOptions options) {
  outrider::check_meaning(config, {"hidden_act"});
  const auto shape = outrider::layer_shape(config);
  return [=](int64_t) {
    return std::make_shared<outrider::nn::DecoderLayer>(
        shape, std::make_shared<outrider::nn::Attention>(shape.attention, options),
        std::make_shared<GegluMlp>(shape.attention.hidden_size, shape.intermediate_size, options),
        options);
  };
}

class GegluForCausalLM final : public outrider::DecoderOnlyLM {
 public:
  GegluForCausalLM(const outrider::ModelConfig& config, at::TensorOptions options)
      : DecoderOnlyLM(config, options, layers(config, options)) {}
};

/// Predicts the next state from this one.
class StateDraft final : public outrider::Draft {
 public:
  explicit StateDraft(const outrider::BaseInfo& base) {
    const auto options = at::TensorOptions().dtype(base.dtype).device(base.device);
    projection_ = register_module(
        "projection",
        outrider::nn::initialized_linear(base.hidden_size, base.hidden_size, false, options));
  }

  outrider::HiddenStateRequest hidden_states_needed() const override { return {}; }

  outrider::DraftLoss loss(const outrider::BaseOutputs& base,
                           const outrider::TrainBatch&) override {
    const auto hidden = base.last_hidden.detach();
    const auto predicted = projection_->forward(hidden.slice(1, 0, -1));
    return {at::mse_loss(predicted, hidden.slice(1, 1)), {}};
  }

 private:
  std::shared_ptr<Linear> projection_;
};

}  // namespace

OUTRIDER_PLUGIN(registrar) {
  registrar.add_base("GegluForCausalLM", [](const auto& config, at::TensorOptions options) {
    return std::make_shared<GegluForCausalLM>(config, options);
  });
  registrar.add_draft_model(
      "eagle", "GegluForCausalLM",
      [](const outrider::BaseInfo& base, const outrider::Json&, const outrider::Json&) {
        return std::make_shared<StateDraft>(base);
      });
}
