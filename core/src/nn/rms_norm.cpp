#include "outrider/nn/rms_norm.h"

#include <ATen/ATen.h>

namespace outrider::nn {

RmsNorm::RmsNorm(int64_t size, double epsilon, at::TensorOptions options) : eps(epsilon) {
  weight = register_parameter("weight", at::ones({size}, options));
}

at::Tensor RmsNorm::forward(const at::Tensor& x) const {
  const auto wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  const auto scale = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  return weight * (wide * scale).to(x.scalar_type());
}

}  // namespace outrider::nn
