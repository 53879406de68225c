#pragma once

#include <torch/nn/module.h>

#include "outrider/api.h"

namespace outrider::nn {

/// y = w · cast(x / √(mean(x²) + eps)); the quotient is computed in float32 (or wider) and cast to
/// x's type before the product, as transformers' LlamaRMSNorm does. arXiv 1910.07467.
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
