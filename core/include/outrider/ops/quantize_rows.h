#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/api.h"

namespace outrider::ops {

/// x ≈ values · scales: values [n,k] of float8_e4m3fn, scales [n,1] of float32.
struct QuantizedRows {
  at::Tensor values, scales;
};

/// Each row of x [n,k] divided by what makes its largest magnitude the largest of e4m3 (448), and
/// rounded. No gradient.
OUTRIDER_API QuantizedRows quantize_rows(const at::Tensor& x);

}  // namespace outrider::ops
