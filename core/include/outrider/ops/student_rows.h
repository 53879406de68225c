#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "outrider/api.h"

namespace outrider::ops {

/// The rows that a loss's head reads: N of each of T steps. Either one tensor, or rows of the
/// steps' own outputs, which are then gathered (and normed) a chunk at a time and whose gradients
/// are written to where the rows came from: nothing of the size of all rows exists but the
/// gradients.
struct OUTRIDER_API StudentRows {
  /// rows [T,N,h].
  StudentRows(const at::Tensor& rows) : tensors{rows} {}  // a tensor is rows: not explicit
  /// Row n of step t is row index[t][n] of outputs[t] [...,h] taken as a matrix. index [T,N] int64:
  /// those of a step differ, but for -1, where it has no such row; the weight is 0 there.
  StudentRows(std::vector<at::Tensor> outputs, at::Tensor index);
  /// The same rows after ops::rms_norm with a weight [h].
  StudentRows normed(at::Tensor weight, double eps) &&;

  /// Throws kInternal where shapes do not fit each other.
  void check() const;
  int64_t step_count() const;
  int64_t row_count() const;
  int64_t width() const { return tensors.front().size(-1); }

  std::vector<at::Tensor> tensors;  // [T,N,h], or T of [...,h] with an index
  at::Tensor index{};               // or undefined
  at::Tensor norm_weight{};         // or undefined
  double norm_eps = 0.0;
};

}  // namespace outrider::ops
