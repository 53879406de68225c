#include "outrider/ops/ridge_regression.h"

#include <ATen/ATen.h>

namespace outrider::ops {

RidgeRegression::RidgeRegression(int64_t inputs, int64_t outputs, at::Device device,
                                 double strength)
    : squares_(at::zeros({inputs, inputs}, at::TensorOptions().device(device).dtype(at::kDouble))),
      products_(at::zeros({inputs, outputs}, squares_.options())),
      strength_(strength) {}

void RidgeRegression::add(const at::Tensor& x, const at::Tensor& y) {
  const auto wide = x.to(at::kDouble);
  squares_.addmm_(wide.t(), wide);
  products_.addmm_(wide.t(), y.to(at::kDouble));
}

at::Tensor RidgeRegression::solution() const {
  const double mean = squares_.diagonal().mean().item<double>();
  if (mean == 0) return at::zeros_like(products_.t());
  auto regular = squares_.clone();
  regular.diagonal().add_(strength_ * mean);
  return at::cholesky_solve(products_, at::linalg_cholesky(regular)).t();
}

}  // namespace outrider::ops
