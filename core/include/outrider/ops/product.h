#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/api.h"

namespace outrider::ops {

/// a b of matrices [m,k] and [k,n], as at::mm() gives it; no gradient.
OUTRIDER_API at::Tensor product(const at::Tensor& a, const at::Tensor& b);
/// sum += a b. `sum` [m,n] may be wider than the factors: float32 for those of half types.
OUTRIDER_API void add_product(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b);

/// While one lives, large products of half types on a GPU that come again and again are computed by
/// the fastest of the kernels that cuBLAS proposes, where that is not the one that it takes: a size
/// is timed once, for a fraction of a second, which waits for the device. Only a kernel that gives
/// the same bits is taken. Together these times are kOfTheBeginning seconds and kShareOfTime of
/// what passes after.
class OUTRIDER_API TimedProducts {
 public:
  TimedProducts();
  ~TimedProducts();
  TimedProducts(const TimedProducts&) = delete;
  TimedProducts& operator=(const TimedProducts&) = delete;

  static constexpr double kOfTheBeginning = 6.0, kShareOfTime = 0.02;
};

}  // namespace outrider::ops
