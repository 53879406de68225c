#include "outrider/nn/decoder_layer.h"

#include <ATen/ATen.h>

#include "outrider/ops/attention.h"

namespace outrider::nn {
namespace {

at::Tensor split_heads(const at::Tensor& x, int64_t heads, int64_t head_dim) {
  return x.view({x.size(0), x.size(1), heads, head_dim}).transpose(1, 2);
}

}  // namespace

Attention::Attention(const AttentionShape& s, at::TensorOptions options) : shape(s) {
  const int64_t query_size = s.num_heads * s.head_dim;
  const int64_t key_size = s.num_key_value_heads * s.head_dim;
  q_proj = register_module("q_proj",
                           std::make_shared<Linear>(s.input_size, query_size, s.bias, options));
  k_proj =
      register_module("k_proj", std::make_shared<Linear>(s.input_size, key_size, s.bias, options));
  v_proj =
      register_module("v_proj", std::make_shared<Linear>(s.input_size, key_size, s.bias, options));
  o_proj = register_module("o_proj",
                           std::make_shared<Linear>(query_size, s.hidden_size, s.bias, options));
}

QueryKeyValue Attention::project(const at::Tensor& x, const CosSin& rotary) const {
  const auto query = split_heads(q_proj->forward(x), shape.num_heads, shape.head_dim);
  const auto key = split_heads(k_proj->forward(x), shape.num_key_value_heads, shape.head_dim);
  const auto value = split_heads(v_proj->forward(x), shape.num_key_value_heads, shape.head_dim);
  return {apply_rotary(query, rotary), apply_rotary(key, rotary), value};
}

at::Tensor Attention::output(const at::Tensor& attended) const {
  return o_proj->forward(attended.transpose(1, 2).flatten(2));
}

SwiGluMlp::SwiGluMlp(int64_t hidden_size, int64_t intermediate_size, bool bias,
                     at::TensorOptions options) {
  gate_proj = register_module(
      "gate_proj", std::make_shared<Linear>(hidden_size, intermediate_size, bias, options));
  up_proj = register_module(
      "up_proj", std::make_shared<Linear>(hidden_size, intermediate_size, bias, options));
  down_proj = register_module(
      "down_proj", std::make_shared<Linear>(intermediate_size, hidden_size, bias, options));
}

at::Tensor SwiGluMlp::forward(const at::Tensor& x) const {
  return down_proj->forward(at::silu(gate_proj->forward(x)) * up_proj->forward(x));
}

DecoderLayer::DecoderLayer(const DecoderLayerShape& s, at::TensorOptions options) {
  const int64_t hidden = s.attention.hidden_size;
  input_layernorm = register_module("input_layernorm",
                                    std::make_shared<RmsNorm>(hidden, s.rms_norm_eps, options));
  self_attn = register_module("self_attn", std::make_shared<Attention>(s.attention, options));
  post_attention_layernorm = register_module(
      "post_attention_layernorm", std::make_shared<RmsNorm>(hidden, s.rms_norm_eps, options));
  mlp = register_module(
      "mlp", std::make_shared<SwiGluMlp>(hidden, s.intermediate_size, s.mlp_bias, options));
}

at::Tensor DecoderLayer::forward(const at::Tensor& x, const CosSin& rotary,
                                 const at::Tensor& key_mask) const {
  const auto qkv = self_attn->project(input_layernorm->forward(x), rotary);
  const auto attended = ops::prefix_diagonal_attention(qkv.query, qkv.key, qkv.value, {}, key_mask);
  const auto residual = x + self_attn->output(attended);
  return residual + mlp->forward(post_attention_layernorm->forward(residual));
}

}  // namespace outrider::nn
