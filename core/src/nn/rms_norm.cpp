#include "outrider/nn/rms_norm.h"

#include <ATen/ATen.h>

#include "outrider/ops/rms_norm.h"

namespace outrider::nn {

RmsNorm::RmsNorm(int64_t size, double epsilon, at::TensorOptions options) : eps(epsilon) {
  weight = register_parameter("weight", at::ones({size}, options));
}

at::Tensor RmsNorm::forward(const at::Tensor& x) const { return ops::rms_norm(x, weight, eps); }

}  // namespace outrider::nn
