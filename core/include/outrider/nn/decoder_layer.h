#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "outrider/api.h"
#include "outrider/nn/attention.h"
#include "outrider/nn/cached_pass.h"
#include "outrider/nn/mlp.h"
#include "outrider/nn/rms_norm.h"
#include "outrider/ops/documents.h"

namespace outrider::nn {

struct DecoderLayerShape {
  AttentionShape attention;
  int64_t intermediate_size;
  bool mlp_bias = false;
  double rms_norm_eps = 1e-6;
  std::optional<int64_t> sliding_window = {};  // query i sees the keys j with i - j < window
};

/// A layer's parts as few rows go through them: `input_norm` null where the attention's input is
/// given as it is. Nothing where the parts cannot say.
OUTRIDER_API std::optional<FewRowsLayer> few_rows_layer(const RmsNorm* input_norm,
                                                        const AttentionProjections& attention,
                                                        const RmsNorm& mlp_norm, const Mlp& mlp,
                                                        std::optional<int64_t> window = {});

/// The pre-norm block of Llama: x + attention(norm(x)), then x + mlp(norm(x)).
class OUTRIDER_API DecoderLayer : public torch::nn::Module {
 public:
  /// With Attention and SwiGluMlp.
  DecoderLayer(const DecoderLayerShape& shape, at::TensorOptions options);
  /// With parts of a family's own.
  DecoderLayer(const DecoderLayerShape& shape, std::shared_ptr<AttentionProjections> attention,
               std::shared_ptr<Mlp> mlp, at::TensorOptions options);

  /// x [B,S,h]; causal, and keys where key_mask [B,S] is false are never attended to. With a
  /// `share`, S are this process's own rows, and attention is over those of all; without a mask.
  /// With `documents` it is within each. An x that the caller moves here and that nobody else holds
  /// may become the result.
  at::Tensor forward(at::Tensor x, const CosSin& rotary, const at::Tensor& key_mask,
                     const std::shared_ptr<SequenceShare>& share = {},
                     const std::optional<ops::Documents>& documents = {}) const;
  /// x [B,n,h], the new rows of the pass; `layer`: this one's number in the cache.
  at::Tensor forward(at::Tensor x, const CosSin& rotary, CachedPass& pass, int64_t layer) const;

  /// As few rows go through it, where its parts can say.
  std::optional<FewRowsLayer> few_rows_layer() const;

  std::shared_ptr<RmsNorm> input_layernorm, post_attention_layernorm;
  std::shared_ptr<AttentionProjections> self_attn;
  std::shared_ptr<Mlp> mlp;
  std::optional<int64_t> sliding_window;

 private:
  at::Tensor after_attention(at::Tensor x, at::Tensor attended) const;
};

}  // namespace outrider::nn
