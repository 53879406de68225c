#pragma once

#include <ATen/core/Tensor.h>

namespace outrider::kernels {

/// values *= factor, in place. values: contiguous; factor: one element of its accumulation type, on
/// its device. A factor of 1, as that of a loss which is the end of its graph, costs no pass over
/// the values, and nobody waits for the device to find out.
void scale_in_place(const at::Tensor& values, const at::Tensor& factor);

}  // namespace outrider::kernels
