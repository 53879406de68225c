#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/api.h"

namespace outrider::ops {

/// silu(gate) · up, of one shape and type (arXiv 2002.05202); silu is rounded to that type.
OUTRIDER_API at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

}  // namespace outrider::ops
