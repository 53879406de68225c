#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/api.h"

namespace outrider::ops {

/// x [...,h], weight [h] → w · cast(x / √(mean(x²) + eps)), the quotient in float32 (float64 for
/// float64) and cast to x's type before the product, as transformers' LlamaRMSNorm does. arXiv
/// 1910.07467. Types may differ: the result has that of the product.
OUTRIDER_API at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace outrider::ops
