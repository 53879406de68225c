#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "outrider/ops/documents.h"

namespace outrider::ops {

/// Which of the keys j ≤ i query i may attend to.
struct PrefixMask {
  at::Tensor key_mask;                      // [B,S] bool, or undefined: all
  std::optional<int64_t> window;            // those with i - j < window
  std::optional<Documents> documents = {};  // those of its own
};

/// Causal attention with what its backward needs.
struct PrefixResult {
  at::Tensor output;        // [B,H,S,D]
  at::Tensor log_sum_exp;   // [B,H,S] accumulation type, natural log, scale included; -inf: no key
  at::Tensor seed, offset;  // the CUDA kernel's random state, unused without dropout
};

/// query [B,H,S,D] on keys [B,Hkv,S,D]; query i sees the keys j ≤ i that the mask allows.
PrefixResult prefix_attention(const at::Tensor& query, const at::Tensor& key,
                              const at::Tensor& value, const PrefixMask& mask, double scale);

/// Of query, key and value.
using PrefixGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

/// Gradients of the prefix part of a pass whose output and log-sum-exp may have been merged with
/// further keys: with the merged values the result is exact for the prefix.
PrefixGradients prefix_attention_backward(const at::Tensor& grad, const at::Tensor& query,
                                          const at::Tensor& key, const at::Tensor& value,
                                          const PrefixResult& merged, const PrefixMask& mask,
                                          double scale);

}  // namespace outrider::ops
