#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "ops/prefix_attention.h"

namespace outrider::ops {

/// J diagonals: query i attends to key i of each, where masks [J,B,S] bool, or undefined, allow it.
struct Diagonals {
  at::TensorList keys, values;  // J of [B,Hkv,S,D]
  at::Tensor masks;
};

/// Gradients of J diagonals, like their keys and values.
struct DiagonalGradients {
  std::vector<at::Tensor> keys, values;
};

/// Merges the diagonals of query [B,H,S,D] into attention to a prefix: its output and log-sum-exp
/// become those over all keys.
void merge_diagonals(PrefixResult& prefix, const at::Tensor& query, const Diagonals& diagonals,
                     double scale);

/// The diagonals' part of the backward pass of merged attention; adds to d_query in place.
DiagonalGradients merge_diagonals_backward(const at::Tensor& grad, const at::Tensor& query,
                                           const Diagonals& diagonals, const PrefixResult& merged,
                                           double scale, const at::Tensor& d_query);

}  // namespace outrider::ops
