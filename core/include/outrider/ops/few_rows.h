#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "outrider/api.h"
#include "outrider/ops/linear_input.h"

/// Decoding's operators for a few rows in inference mode, of bfloat16 on a GPU, of float32 or
/// bfloat16 on a CPU (whose weights may be bfloat16): each reads what it needs once, and does what
/// surrounds a product on the way. Without a gradient. On a GPU more than 32 rows are multiplied by
/// cuBLAS, with what surrounds a product before and behind it.
namespace outrider::ops {

/// Rows of a pass that go this way on a GPU, of all sequences together and of each.
constexpr int64_t kMostRowsOfPass = 2048, kMostRowsOfSequence = 32;

constexpr bool are_few_rows(int64_t sequences, int64_t rows_of_each) {
  return rows_of_each <= kMostRowsOfSequence && sequences * rows_of_each <= kMostRowsOfPass;
}

/// RMSNorm before something else; undefined weight: none.
struct NormBefore {
  at::Tensor weight;
  double eps = 0.0;
};

/// Whether few_rows_product() can multiply x [...,in] with these layers, here and now; and whether
/// rows like those of x can, with so many elements instead of its own.
OUTRIDER_API bool takes_few_rows(const at::Tensor& x, const std::vector<LinearParameters>& layers);
OUTRIDER_API bool takes_few_rows(const at::Tensor& x, int64_t inner,
                                 const std::vector<LinearParameters>& layers);

enum class Joined {
  kSideBySide,  // [...,sum of the layers' outputs]
  kGated        // silu(the first's) · the second's
};

/// What at most three layers make of norm(x), x [...,in], with `residual` added where there is one,
/// into y.
OUTRIDER_API void few_rows_product(const at::Tensor& x, const NormBefore& norm,
                                   const std::vector<LinearParameters>& layers, Joined joined,
                                   const at::Tensor& residual, const at::Tensor& y);

/// New rows of B sequences, n each, and what they attend to.
struct FewRowsAttention {
  at::Tensor qkv;                   // [B,n,(H + 2 Hkv) D], as projected
  NormBefore query_norm, key_norm;  // of each head
  at::Tensor cos, sin;              // [R,rotated]: of position R, or of row R
  bool tables_by_position = false;
  at::Tensor positions;     // [1 or B,n] int64
  at::Tensor keys, values;  // [B,Hkv,capacity,D]; the new ones are written behind the kept ones
  at::Tensor lengths;       // [1 or B] int64, on the device: how many are kept
  at::Tensor seen;          // as CachedPass's tree_mask; undefined: causal
  int64_t window = 0;       // 0: none
};

/// Whether rows like those of x can attend with heads of this size.
OUTRIDER_API bool attends_few_rows(const at::Tensor& x, int64_t head_dim);
/// Bytes that few_rows_attention() needs, zeros before their first use.
OUTRIDER_API int64_t few_rows_workspace(const FewRowsAttention& attention);
/// One layer's product of normed rows, [...,out]: where takes_few_rows() says so.
OUTRIDER_API at::Tensor few_rows_linear(const at::Tensor& x, const NormBefore& norm,
                                        const LinearParameters& layer);
/// y [B,n,H·D].
OUTRIDER_API void few_rows_attention(const FewRowsAttention& attention, const at::Tensor& workspace,
                                     const at::Tensor& y);

}  // namespace outrider::ops
