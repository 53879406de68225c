#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <utility>

#include "outrider/problems.h"

namespace outrider {

/// Collects which tensors do not fit a model, so that one error names all of them.
class TensorMismatches {
 public:
  /// Where given, takes the value of a tensor that fits, or says that the target is to have it.
  using Taker = std::function<bool(const std::string& name, const at::Tensor& value)>;
  explicit TensorMismatches(Taker taker = {}) : taker_(std::move(taker)) {}

  void add(const char* what, const std::string& name);
  /// A line as it is.
  void add(const std::string& problem) { problems_.add(problem); }
  /// Copies values of any floating-point type into `target`, if shapes and kinds are equal.
  void copy(const at::Tensor& target, const at::Tensor& source, const std::string& name);
  /// Throws kTensorMismatch if there are problems; names the first few dozen.
  void finish(const std::string& origin, const std::string& hint) const;

 private:
  Problems problems_;
  Taker taker_;
};

}  // namespace outrider
