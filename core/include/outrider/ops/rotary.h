#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/api.h"

namespace outrider::ops {

/// x [B,H,S,D] with its first R dimensions rotated, x·cos + rotate_half(x)·sin (arXiv 2104.09864),
/// the others kept; cos, sin [1 or B,1,S,R], R even and at most D, and without a gradient. Types
/// may differ: the result has that of the product.
OUTRIDER_API at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

/// The same in place of query [B,H,S,D] and key [B,Hkv,S,D], at once on a GPU; without a graph.
OUTRIDER_API void rotate_in_place(const at::Tensor& query, const at::Tensor& key,
                                  const at::Tensor& cos, const at::Tensor& sin);

}  // namespace outrider::ops
