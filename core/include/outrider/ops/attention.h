#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "outrider/api.h"
#include "outrider/ops/documents.h"

namespace outrider::ops {

/// One key and value per query, of an earlier draft step: [B,kv heads,S,D] each, or more.
struct DiagonalKeys {
  at::Tensor key, value;
};

/// Attention of training-time test (EAGLE-3, arXiv 2503.01840): query i attends to the keys j ≤ i
/// of the prefix and to key i of every diagonal. No [S, S·steps] mask or score matrix exists: the
/// prefix runs as plain causal attention and the diagonals are merged by log-sum-exp. Both backward
/// passes are written by hand and need only the merged output and its log-sum-exp.
///
/// query [B,H,S,D]; prefix_key, prefix_value [B,Hkv,S,D], H a multiple of Hkv. Scale 1/√D.
/// key_mask [B,S] bool or undefined: prefix keys that may be attended to. diagonal_masks: one [B,S]
/// bool tensor per diagonal, or empty. A query without any key gives zeros. With `documents` a
/// query sees the prefix keys of its own alone.
/// A lag is made by slicing: with queries q[j:], query i sees the prefix keys ≤ i-j. Of keys and
/// values that are more than the queries the first S are read, so that those of earlier steps need
/// not be sliced, which would cost their gradients two passes over memory each.
OUTRIDER_API at::Tensor prefix_diagonal_attention(
    const at::Tensor& query, const at::Tensor& prefix_key, const at::Tensor& prefix_value,
    const std::vector<DiagonalKeys>& diagonals = {}, const at::Tensor& key_mask = {},
    const std::vector<at::Tensor>& diagonal_masks = {},
    const std::optional<Documents>& documents = {});

/// The prefix alone: query i attends to the keys j ≤ i that key_mask allows and, with a `window` ≥
/// 1, only to those with i - j < window (arXiv 2310.06825, as transformers counts). Shapes, scale,
/// documents and queries without keys as above.
OUTRIDER_API at::Tensor causal_attention(const at::Tensor& query, const at::Tensor& key,
                                         const at::Tensor& value, const at::Tensor& key_mask = {},
                                         std::optional<int64_t> window = {},
                                         const std::optional<Documents>& documents = {});

}  // namespace outrider::ops
