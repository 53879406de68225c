#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "outrider/api.h"

namespace outrider {

/// Whether this CPU has instructions for products of bfloat16 that LibTorch uses. Without them
/// such products are computed number by number, several times slower than in float32.
/// OUTRIDER_CPU_BFLOAT16=fast|slow replaces the answer; another value throws kInvalidArgument.
OUTRIDER_API bool has_fast_bfloat16();

/// The type to compute in on `device` with a model stored in `stored`.
OUTRIDER_API at::ScalarType computing_type(at::ScalarType stored, at::Device device);

}  // namespace outrider
