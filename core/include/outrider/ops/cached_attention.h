#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/api.h"

namespace outrider::ops {

/// Attention of a few new queries to many keys: query [B,H,n,D], key and value [B,Hkv,L,D], H a
/// multiple of Hkv, scale 1/√D. bias [1 or B,n,L] in the type of the scores (float32, or float64),
/// -∞ where a key is not seen; undefined: all are. Key heads are read once for all queries of their
/// group. Without a gradient.
OUTRIDER_API at::Tensor cached_attention(const at::Tensor& query, const at::Tensor& key,
                                         const at::Tensor& value, const at::Tensor& bias = {});

}  // namespace outrider::ops
