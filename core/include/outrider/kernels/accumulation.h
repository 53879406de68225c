#pragma once

#include <ATen/core/Tensor.h>

namespace outrider {

/// The type in which sums over a tensor's elements are computed: float32, float64 for float64.
inline at::ScalarType accumulation_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// The tensor in its accumulation type, itself where it has that type already.
inline at::Tensor widened(const at::Tensor& tensor) { return tensor.to(accumulation_type(tensor)); }

}  // namespace outrider
