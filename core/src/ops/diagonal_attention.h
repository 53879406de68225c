#pragma once

#include <ATen/core/Tensor.h>

#include "ops/prefix_attention.h"

namespace outrider::ops {

/// J diagonals: query i attends to key i of each, where masks [J,B,S] bool, or undefined, allow it.
struct Diagonals {
  at::TensorList keys, values;  // J of [B,Hkv,S,D]
  at::Tensor masks;
};

/// Where gradients go: those of J diagonals, of the shapes of their keys and values, are written,
/// that of the query is added to.
struct DiagonalGradients {
  at::Tensor query;
  at::TensorList keys, values;
};

/// Merges the diagonals of query [B,H,S,D] into attention to a prefix: its output and log-sum-exp
/// become those over all keys.
void merge_diagonals(PrefixResult& prefix, const at::Tensor& query, const Diagonals& diagonals,
                     double scale);

/// The diagonals' part of the backward pass of merged attention.
void merge_diagonals_backward(const at::Tensor& grad, const at::Tensor& query,
                              const Diagonals& diagonals, const PrefixResult& merged, double scale,
                              const DiagonalGradients& gradients);

}  // namespace outrider::ops
