#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "outrider/api.h"
#include "outrider/kernels/adamw_coefficients.h"

namespace outrider::ops {

/// A parameter that is trained, and its state. All but `step` [] are of one shape.
struct AdamWTensors {
  at::Tensor parameter;            // takes the new values, rounded; may be the master itself
  at::Tensor master;               // float32
  at::Tensor gradient;             // float32, or on a GPU of the parameter's type
  at::Tensor exp_avg, exp_avg_sq;  // float32
  at::Tensor step;                 // float32, the updates so far
};

/// One update of each in place, as torch.optim.AdamW computes it ("Decoupled Weight Decay
/// Regularization", arXiv:1711.05101), in float32, by the gradients times `gradient_scale` []
/// (undefined: as they are). On a GPU all of it is one pass over memory; elsewhere the gradients
/// are scaled in place.
OUTRIDER_API void adamw_(const std::vector<AdamWTensors>& parameters,
                         const at::Tensor& gradient_scale, const AdamWCoefficients& coefficients);

}  // namespace outrider::ops
