#include "outrider/nn/decoder_layer.h"

#include <ATen/ATen.h>

#include <utility>

#include "outrider/ops/attention.h"

namespace outrider::nn {
namespace {

bool is_held_here_alone(const at::Tensor& x) {
  return x.use_count() == 1 && x.storage().use_count() == 1;
}

}  // namespace

std::optional<FewRowsLayer> few_rows_layer(const RmsNorm* input_norm,
                                           const AttentionProjections& attention,
                                           const RmsNorm& mlp_norm, const Mlp& mlp,
                                           std::optional<int64_t> window) {
  const auto projections = attention.few_rows_projections();
  const auto output = attention.o_proj->plain_parameters();
  const auto gated = mlp.swiglu_parameters();
  if (!projections || !output || !gated) return std::nullopt;
  const auto norm = [](const RmsNorm& n) { return ops::NormBefore{n.weight, n.eps}; };
  return FewRowsLayer{.input_norm = input_norm ? norm(*input_norm) : ops::NormBefore{},
                      .mlp_norm = norm(mlp_norm),
                      .query_norm = projections->query_norm,
                      .key_norm = projections->key_norm,
                      .qkv = projections->qkv,
                      .output = *output,
                      .gate_up = {(*gated)[0], (*gated)[1]},
                      .down = (*gated)[2],
                      .heads = attention.shape.num_heads,
                      .key_heads = attention.shape.num_key_value_heads,
                      .head_dim = attention.shape.head_dim,
                      .window = window.value_or(0)};
}

DecoderLayer::DecoderLayer(const DecoderLayerShape& s, at::TensorOptions options)
    : DecoderLayer(s, std::make_shared<Attention>(s.attention, options),
                   std::make_shared<SwiGluMlp>(s.attention.hidden_size, s.intermediate_size,
                                               s.mlp_bias, options),
                   options) {}

DecoderLayer::DecoderLayer(const DecoderLayerShape& s,
                           std::shared_ptr<AttentionProjections> attention,
                           std::shared_ptr<Mlp> position_mlp, at::TensorOptions options)
    : sliding_window(s.sliding_window) {
  const auto add_norm = [&](const char* name) {
    return register_module(
        name, std::make_shared<RmsNorm>(s.attention.hidden_size, s.rms_norm_eps, options));
  };
  input_layernorm = add_norm("input_layernorm");
  self_attn = register_module("self_attn", std::move(attention));
  post_attention_layernorm = add_norm("post_attention_layernorm");
  mlp = register_module("mlp", std::move(position_mlp));
}

at::Tensor DecoderLayer::forward(at::Tensor x, const CosSin& rotary, const at::Tensor& key_mask,
                                 const std::shared_ptr<SequenceShare>& share,
                                 const std::optional<ops::Documents>& documents) const {
  const auto attend = [&] {
    auto qkv = self_attn->project(input_layernorm->forward(x), rotary);
    if (share) qkv = rows_to_heads(qkv, share);
    const auto attended =
        ops::causal_attention(qkv.query, qkv.key, qkv.value, key_mask, sliding_window, documents);
    return share ? ops::heads_to_rows(attended, share) : attended;
  };
  auto attended = attend();
  return after_attention(std::move(x), std::move(attended));
}

std::optional<FewRowsLayer> DecoderLayer::few_rows_layer() const {
  return nn::few_rows_layer(input_layernorm.get(), *self_attn, *post_attention_layernorm, *mlp,
                            sliding_window);
}

at::Tensor DecoderLayer::forward(at::Tensor x, const CosSin& rotary, CachedPass& pass,
                                 int64_t layer) const {
  if (const auto few = pass.may_be_few() ? few_rows_layer() : std::nullopt) {
    if (auto y = pass.few_rows(layer, *few, x, x, rotary)) return *std::move(y);
  }
  auto attended =
      pass.attend(layer, self_attn->project(input_layernorm->forward(x), rotary), sliding_window);
  return after_attention(std::move(x), std::move(attended));
}

// What is no longer needed is given up before the block's widest tensors exist.
at::Tensor DecoderLayer::after_attention(at::Tensor x, at::Tensor attended) const {
  const auto residual =
      is_held_here_alone(x) ? self_attn->add_to(x, attended) : x + self_attn->output(attended);
  x.reset();
  attended.reset();
  return mlp->add_to(residual, post_attention_layernorm->forward(residual));
}

}  // namespace outrider::nn
