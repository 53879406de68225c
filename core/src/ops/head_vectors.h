#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/cuda/diagonal_attention.h"

namespace outrider::ops {

/// x [B,H,S,D] whose vectors' elements lie beside each other, for kernels.
inline cuda::HeadVectors vectors_of(const at::Tensor& x) {
  return {x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

}  // namespace outrider::ops
