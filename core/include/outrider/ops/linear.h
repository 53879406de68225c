#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/api.h"

namespace outrider::ops {

/// x Wᵀ + b as at::linear() gives it: x [...,in], weight [out,in], bias [out] or undefined, in the
/// type of x, whatever the weight's. In inference mode, on a CPU, products of a few rows read the
/// weight once, as it is stored, and sum in float32.
OUTRIDER_API at::Tensor linear(const at::Tensor& x, const at::Tensor& weight,
                               const at::Tensor& bias = {});

}  // namespace outrider::ops
