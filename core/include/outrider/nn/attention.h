#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "outrider/api.h"
#include "outrider/nn/few_rows.h"
#include "outrider/nn/linear.h"
#include "outrider/nn/rotary_embedding.h"
#include "outrider/ops/sequence_share.h"

namespace outrider::nn {

struct AttentionShape {
  int64_t input_size;  // of q, k and v; EAGLE-3's first layer reads 2h
  int64_t hidden_size, num_heads, num_key_value_heads, head_dim;
  bool bias = false;                     // of q, k and v
  std::optional<bool> output_bias = {};  // of o; `bias` where it is unset
};

/// Query, key and value of one pass: [B,heads,S,D], [B,kv heads,S,D] twice.
struct QueryKeyValue {
  at::Tensor query, key, value;
};

/// [B,S,heads·D] → [B,heads,S,D].
OUTRIDER_API at::Tensor split_heads(const at::Tensor& x, int64_t heads, int64_t head_dim);
/// The way back: [B,heads,S,D] → [B,S,heads·D].
OUTRIDER_API at::Tensor rows_of_heads(const at::Tensor& x);

/// Every head of one process's rows, [B,heads,L,D], as its heads of every row, [B,heads/N,N·L,D]:
/// what attention over sequences that N processes share works on. ops::heads_to_rows() is the way
/// back. Key heads that N does not divide are repeated as far as it takes.
OUTRIDER_API QueryKeyValue rows_to_heads(const QueryKeyValue& rows,
                                         const std::shared_ptr<SequenceShare>& share);

/// The projections around grouped-query attention; a subclass owns those of query, key and value.
class OUTRIDER_API AttentionProjections : public torch::nn::Module {
 public:
  explicit AttentionProjections(const AttentionShape& shape);

  /// x [B,S,input_size] → rotated query and key, and value.
  QueryKeyValue project(const ops::LinearInput& x, const CosSin& rotary) const;
  /// Attention output [B,heads,S,D] → [B,S,h].
  at::Tensor output(const at::Tensor& attended) const;
  /// residual + output(attended); without a graph it may be computed in place of `residual`.
  at::Tensor add_to(const at::Tensor& residual, const at::Tensor& attended) const;
  /// Query, key and value for few rows; none where only heads() knows the way.
  virtual std::optional<FewRowsProjections> few_rows_projections() const;

  AttentionShape shape;
  std::shared_ptr<Linear> o_proj;

 protected:
  /// Query, key and value as they are before the rotation, which may overwrite them.
  virtual QueryKeyValue heads(const ops::LinearInput& x) const = 0;
  /// For the subclass's constructor, after its own projections: checkpoints list o_proj last.
  void add_output_projection(at::TensorOptions options);
};

/// One projection each, under the checkpoint names q_proj … o_proj.
class OUTRIDER_API Attention : public AttentionProjections {
 public:
  Attention(const AttentionShape& shape, at::TensorOptions options);

  /// Of this class alone: a subclass that changes heads() knows what it changes.
  std::optional<FewRowsProjections> few_rows_projections() const override;

  std::shared_ptr<Linear> q_proj, k_proj, v_proj;

 protected:
  /// The three projections, for a subclass's few_rows_projections().
  std::optional<FewRowsProjections> plain_projections() const;
  QueryKeyValue heads(const ops::LinearInput& x) const override;
};

}  // namespace outrider::nn
