#pragma once

#include <torch/nn/module.h>

#include <memory>

#include "outrider/api.h"
#include "outrider/nn/linear.h"
#include "outrider/nn/rms_norm.h"
#include "outrider/nn/rotary_embedding.h"

namespace outrider::nn {

struct AttentionShape {
  int64_t input_size;  // of q, k and v; EAGLE-3's first layer reads 2h
  int64_t hidden_size, num_heads, num_key_value_heads, head_dim;
  bool bias = false;
};

/// Query, key and value of one pass, rotated: [B,heads,S,D], [B,kv heads,S,D] twice.
struct QueryKeyValue {
  at::Tensor query, key, value;
};

/// Projections of grouped-query attention, under the checkpoint names q_proj … o_proj.
class OUTRIDER_API Attention : public torch::nn::Module {
 public:
  Attention(const AttentionShape& shape, at::TensorOptions options);

  /// x [B,S,input_size].
  QueryKeyValue project(const at::Tensor& x, const CosSin& rotary) const;
  /// Attention output [B,heads,S,D] → [B,S,h].
  at::Tensor output(const at::Tensor& attended) const;

  std::shared_ptr<Linear> q_proj, k_proj, v_proj, o_proj;
  AttentionShape shape;
};

/// down(silu(gate(x)) · up(x)), arXiv 2002.05202.
class OUTRIDER_API SwiGluMlp : public torch::nn::Module {
 public:
  SwiGluMlp(int64_t hidden_size, int64_t intermediate_size, bool bias, at::TensorOptions options);
  at::Tensor forward(const at::Tensor& x) const;

  std::shared_ptr<Linear> gate_proj, up_proj, down_proj;
};

struct DecoderLayerShape {
  AttentionShape attention;
  int64_t intermediate_size;
  bool mlp_bias = false;
  double rms_norm_eps = 1e-6;
};

/// The pre-norm block of Llama: x + attention(norm(x)), then x + mlp(norm(x)).
class OUTRIDER_API DecoderLayer : public torch::nn::Module {
 public:
  DecoderLayer(const DecoderLayerShape& shape, at::TensorOptions options);

  /// x [B,S,h]; causal, and keys where key_mask [B,S] is false are never attended to.
  at::Tensor forward(const at::Tensor& x, const CosSin& rotary, const at::Tensor& key_mask) const;

  std::shared_ptr<RmsNorm> input_layernorm, post_attention_layernorm;
  std::shared_ptr<Attention> self_attn;
  std::shared_ptr<SwiGluMlp> mlp;
};

}  // namespace outrider::nn
