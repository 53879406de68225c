#include "outrider/model/phi3.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "outrider/error.h"
#include "outrider/model/config_meaning.h"
#include "outrider/model/sliding_window.h"

namespace outrider {
namespace {

// qkv_proj holds the rows of query, key and value, in this order.
class FusedAttention : public nn::AttentionProjections {
 public:
  FusedAttention(const nn::AttentionShape& s, at::TensorOptions options)
      : nn::AttentionProjections(s) {
    const int64_t rows = (s.num_heads + 2 * s.num_key_value_heads) * s.head_dim;
    qkv_proj_ = register_module("qkv_proj",
                                std::make_shared<nn::Linear>(s.input_size, rows, s.bias, options));
    add_output_projection(options);
  }

  std::optional<nn::FewRowsProjections> few_rows_projections() const override {
    const auto own = qkv_proj_->plain_parameters();
    if (!own) return std::nullopt;
    return nn::FewRowsProjections{.qkv = {*own}};
  }

 protected:
  nn::QueryKeyValue heads(const ops::LinearInput& x) const override {
    const int64_t key_heads = shape.num_key_value_heads;
    const auto all = nn::split_heads(qkv_proj_->forward(x.tensor()),
                                     shape.num_heads + 2 * key_heads, shape.head_dim);
    const auto parts = all.split_with_sizes({shape.num_heads, key_heads, key_heads}, 1);
    return {parts[0], parts[1], parts[2]};
  }

 private:
  std::shared_ptr<nn::Linear> qkv_proj_;
};

// gate_up_proj holds the rows of the gate, then those of up.
class FusedMlp : public nn::Mlp {
 public:
  FusedMlp(int64_t hidden_size, int64_t intermediate_size, at::TensorOptions options) {
    gate_up_proj_ = register_module("gate_up_proj",
                                    std::make_shared<nn::Linear>(hidden_size, 2 * intermediate_size,
                                                                 /*with_bias=*/false, options));
    down_proj_ =
        register_module("down_proj", std::make_shared<nn::Linear>(intermediate_size, hidden_size,
                                                                  /*with_bias=*/false, options));
  }

  at::Tensor forward(const at::Tensor& x) const override {
    const auto halves = gate_up_proj_->forward(x).chunk(2, -1);
    return down_proj_->forward(at::silu(halves[0]) * halves[1]);
  }

  std::optional<std::vector<ops::LinearParameters>> swiglu_parameters() const override {
    const auto gate_up = gate_up_proj_->plain_parameters(), down = down_proj_->plain_parameters();
    if (!gate_up || !down) return std::nullopt;
    const auto halves = gate_up->weight.chunk(2, 0);
    return std::vector<ops::LinearParameters>{{halves[0], {}}, {halves[1], {}}, *down};
  }

 private:
  std::shared_ptr<nn::Linear> gate_up_proj_, down_proj_;
};

void check_rope(const ModelConfig& config) {
  const auto& type = config.rope.type;
  if (type == "default" || type == "longrope") return;
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("Phi3ForCausalLM with rope type '{}': the family has default and longrope", type),
      "does the config.json belong to this model?");
}

LayerFactory phi3_layers(const ModelConfig& config, at::TensorOptions options) {
  check_meaning(config,
                {"sliding_window", "use_sliding_window", "layer_types", "partial_rotary_factor"});
  check_rope(config);
  auto shape = layer_shape(config);
  shape.sliding_window = window_of_all_layers(config, /*if_absent=*/{});
  return [=](int64_t) {
    return std::make_shared<nn::DecoderLayer>(
        shape, std::make_shared<FusedAttention>(shape.attention, options),
        std::make_shared<FusedMlp>(shape.attention.hidden_size, shape.intermediate_size, options),
        options);
  };
}

}  // namespace

Phi3ForCausalLM::Phi3ForCausalLM(const ModelConfig& config, at::TensorOptions options)
    : DecoderOnlyLM(config, options, phi3_layers(config, options)) {}

}  // namespace outrider
