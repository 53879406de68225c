#include "outrider/ops/cached_attention.h"

#include <ATen/ATen.h>

#include <cmath>

#include "outrider/error.h"
#include "outrider/kernels/accumulation.h"

namespace outrider::ops {

at::Tensor cached_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const at::Tensor& bias) {
  const int64_t batch = query.size(0), heads = query.size(1), rows = query.size(2),
                size = query.size(3), key_heads = key.size(1);
  if (heads % key_heads != 0 || key.sizes() != value.sizes() || key.size(3) != size) {
    throw Error(ErrorCode::kInternal,
                "cached_attention: query [B,H,n,D], keys and values [B,Hkv,L,D]");
  }
  const int64_t group = heads / key_heads;
  const auto scale = 1.0 / std::sqrt(static_cast<double>(size));
  const auto grouped = (query * scale).reshape({batch, key_heads, group * rows, size});
  auto scores = widened(at::matmul(grouped, key.transpose(2, 3)));
  if (bias.defined()) {
    scores = (scores.view({batch, key_heads, group, rows, -1}) + bias.unsqueeze(1).unsqueeze(1))
                 .view_as(scores);
  }
  const auto weights = at::softmax(scores, -1).to(value.scalar_type());
  return at::matmul(weights, value).view({batch, heads, rows, size});
}

}  // namespace outrider::ops
