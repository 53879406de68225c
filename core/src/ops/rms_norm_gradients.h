#pragma once

#include <ATen/core/Tensor.h>

namespace outrider::ops {

/// The gradients of rms_norm(x, weight, eps), for who calls its backward without a graph: of x
/// [...,h] in its type, and of the weight [h] in the accumulation type, to be added up.
struct RmsNormGradients {
  at::Tensor x, weight;
};
RmsNormGradients rms_norm_gradients(const at::Tensor& grad, const at::Tensor& x,
                                    const at::Tensor& weight, double eps);

}  // namespace outrider::ops
