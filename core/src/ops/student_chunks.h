#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "outrider/ops/student_rows.h"

namespace outrider::ops {

/// Rows begin … end-1 of every step, n of each.
struct StudentChunk {
  int64_t begin, end;
  at::Tensor rows;         // [T·n,h], a step after the other
  at::Tensor head_inputs;  // [T·n,h]: the same, normed where that is asked for
};

/// Students' rows a chunk at a time, and the way back for their gradients.
class StudentChunks {
 public:
  /// Gradients are collected for what requires one while gradients are enabled. Detached: nothing
  /// here is recorded.
  explicit StudentChunks(const StudentRows& students);

  StudentChunk gather(int64_t begin, int64_t end) const;
  bool wants_gradient() const { return wants_gradient_; }
  /// gradient [T·n,h] of the chunk's head_inputs.
  void write_gradient(const StudentChunk& chunk, const at::Tensor& gradient);

  /// Once all chunks are through, in the shapes and types of the students' tensors; undefined where
  /// not wanted.
  std::vector<at::Tensor> gradients() const;
  at::Tensor norm_gradient() const;

 private:
  at::Tensor gathered(int64_t begin, int64_t end) const;

  StudentRows students_;
  std::vector<at::Tensor> gradients_;  // like the tensors; with an index, matrices of a row more
  at::Tensor norm_sum_;
  bool wants_gradient_ = false;
};

/// Whether autograd will ask for the gradient of a tensor that may be undefined.
bool is_trained(const at::Tensor& tensor);

/// Zeros in a parameter's shape to add gradients up in, wider than bfloat16, which would lose the
/// small ones.
at::Tensor gradient_sum(const at::Tensor& parameter);

}  // namespace outrider::ops
