#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/api.h"

namespace outrider::ops {

/// The likeliest token of each row of logits [...,V], the first of equal ones: [...] int64. What
/// `vocabulary` [V] int64 calls it, where that is defined.
OUTRIDER_API at::Tensor likeliest(const at::Tensor& logits, const at::Tensor& vocabulary = {});

}  // namespace outrider::ops
