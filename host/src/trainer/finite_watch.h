#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <utility>
#include <vector>

#include "outrider/api.h"

namespace outrider {

/// Notices losses and gradients that are not finite, and knows which step and conversations they
/// came from. Remembering costs no synchronisation; checking does.
class OUTRIDER_API FiniteWatch {
 public:
  /// `data` is the folder that conversations are numbered in.
  explicit FiniteWatch(std::filesystem::path data) : data_(std::move(data)) {}

  struct Step {
    int64_t number;
    std::vector<int64_t> conversations;
    at::Tensor loss, gradient_norm;  // 0-dim
  };
  void remember(Step step);

  /// Looks at the steps since the last call. Throws kNonFinite about the first bad one.
  void check();

 private:
  std::filesystem::path data_;
  std::vector<Step> steps_;
};

}  // namespace outrider
