#include "outrider/nn/decoder_layer.h"

#include <ATen/ATen.h>

#include "outrider/ops/attention.h"

namespace outrider::nn {

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

at::Tensor DecoderLayer::forward(const at::Tensor& x, const CosSin& rotary,
                                 const at::Tensor& key_mask,
                                 const std::shared_ptr<SequenceShare>& share,
                                 const std::optional<ops::Documents>& documents) const {
  auto qkv = self_attn->project(input_layernorm->forward(x), rotary);
  if (share) qkv = rows_to_heads(qkv, share);
  auto attended =
      ops::causal_attention(qkv.query, qkv.key, qkv.value, key_mask, sliding_window, documents);
  if (share) attended = ops::heads_to_rows(attended, share);
  return after_attention(x, attended);
}

at::Tensor DecoderLayer::forward(const at::Tensor& x, const CosSin& rotary, CachedPass& pass,
                                 int64_t layer) const {
  const auto qkv = self_attn->project(input_layernorm->forward(x), rotary);
  return after_attention(x, pass.attend(layer, qkv, sliding_window));
}

at::Tensor DecoderLayer::after_attention(const at::Tensor& x, const at::Tensor& attended) const {
  const auto residual = x + self_attn->output(attended);
  return mlp->add_to(residual, post_attention_layernorm->forward(residual));
}

}  // namespace outrider::nn
