#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "outrider/api.h"
#include "outrider/nn/rotary_embedding.h"
#include "outrider/ops/few_rows.h"

namespace outrider::nn {

/// A decoder layer as a few rows of a cached pass go through it on a GPU: five kernels for up to 32
/// rows. Weights are the layer's own.
struct FewRowsLayer {
  ops::NormBefore input_norm, mlp_norm, query_norm, key_norm;
  std::vector<ops::LinearParameters> qkv;  // query, key, value
  ops::LinearParameters output;
  std::vector<ops::LinearParameters> gate_up;  // gate, up
  ops::LinearParameters down;
  int64_t heads = 0, key_heads = 0, head_dim = 0;
  int64_t window = 0;  // 0: none
};

/// The projections of an attention module that few rows can use.
struct FewRowsProjections {
  std::vector<ops::LinearParameters> qkv;
  ops::NormBefore query_norm = {}, key_norm = {};
};

/// Where the new rows of a pass stand.
struct FewRowsPlace {
  at::Tensor keys, values;  // [B,Hkv,capacity,D] of the layer
  at::Tensor lengths;       // [1 or B] int64
  at::Tensor positions;     // [1 or B,n] int64
  at::Tensor seen;          // a tree's, or undefined
  CosSin tables;            // [rows,rotated]
  bool tables_by_position = false;
};

/// What a layer writes on the way, [B,n,…]. May serve all layers of one shape in turn.
struct FewRowsBuffers {
  at::Tensor qkv, attended, residual, activation, workspace;
};

/// Whether input and residual [B,n,…] can go this way.
OUTRIDER_API bool takes_few_rows(const FewRowsLayer& layer, const at::Tensor& input,
                                 const at::Tensor& residual);

OUTRIDER_API FewRowsBuffers few_rows_buffers(const FewRowsLayer& layer, const FewRowsPlace& place,
                                             const at::Tensor& residual);

/// The layer's output into y [B,n,h]: `input` is what its attention reads, before the input norm,
/// `residual` what that is added to.
OUTRIDER_API void run_few_rows(const FewRowsLayer& layer, const at::Tensor& input,
                               const at::Tensor& residual, const FewRowsPlace& place,
                               const FewRowsBuffers& buffers, const at::Tensor& y);

}  // namespace outrider::nn
