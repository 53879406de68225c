#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "outrider/api.h"

namespace outrider::ops {

/// The matrix W [m,n] with the least Σ |y − W x|² + λ |W|² over rows that come a part at a time.
/// λ is `strength` times the mean of x's squares, summed over the rows. Sums are in float64.
class OUTRIDER_API RidgeRegression {
 public:
  /// What it keeps, [n,n+m], is on `device`.
  RidgeRegression(int64_t inputs, int64_t outputs, at::Device device, double strength = 1e-3);

  /// x [T,n], y [T,m].
  void add(const at::Tensor& x, const at::Tensor& y);
  /// [m,n] in float64. Zeros where every x was zero.
  at::Tensor solution() const;

 private:
  at::Tensor squares_, products_;  // Σ x xᵀ [n,n], Σ x yᵀ [n,m]
  double strength_;
};

}  // namespace outrider::ops
