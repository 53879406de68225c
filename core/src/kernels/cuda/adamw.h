#pragma once

#include <cstdint>

#include "outrider/kernels/adamw_coefficients.h"
#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

namespace outrider::kernels::cuda {

/// `size` contiguous values each, on the device: float32, but for the gradient, and the parameter,
/// which takes the new master's values and is null where the master is the parameter.
struct AdamWPointers {
  float *master, *exp_avg, *exp_avg_sq;
  const void* gradient;
  void* parameter;
  const float *step, *gradient_scale;  // one value each; no scale: null
  int64_t size;
};

/// One update, in float32. The parameter is of `type`, and the gradient, which may be float32, too.
/// Returns the launch's cudaError_t.
OUTRIDER_LAUNCHER int adamw(DataType type, bool has_float_gradient, const AdamWPointers& pointers,
                            const AdamWCoefficients& coefficients, CUstream_st* stream);

}  // namespace outrider::kernels::cuda
