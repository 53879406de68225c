#pragma once

#include <ATen/core/Tensor.h>

namespace outrider::medusa {

/// Medusa's residual block x + silu(x Wᵀ + b) (arXiv 2401.10774, section 2.1.1), bias, activation
/// and sum in one pass after the matrix product.
///
/// x [...,h], weight [h,h], bias [h] → [...,h].
at::Tensor residual_block(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// Registers outrider_medusa::residual_silu and its backward; call once, in the entry function.
void register_residual_block();

}  // namespace outrider::medusa
