#pragma once

#include <torch/nn/module.h>

#include "outrider/api.h"

namespace outrider::nn {

/// ops::rms_norm with a weight of its own.
class OUTRIDER_API RmsNorm : public torch::nn::Module {
 public:
  /// weight [size] of ones.
  RmsNorm(int64_t size, double eps, at::TensorOptions options);

  /// x [...,size] → the same shape.
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor weight;
  double eps;
};

}  // namespace outrider::nn
