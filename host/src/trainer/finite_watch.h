#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "outrider/api.h"

namespace outrider {

/// Notices losses and gradients that are not finite, and knows which step and conversations they
/// came from. Remembering costs no synchronisation; checking does.
class OUTRIDER_API FiniteWatch {
 public:
  struct Step {
    int64_t number;
    std::vector<int64_t> conversations;
    at::Tensor loss, gradient_norm;  // 0-dim
  };
  void remember(Step step);

  /// Looks at the steps since the last call. Throws kNonFinite about the first bad one.
  void check();

 private:
  std::vector<Step> steps_;
};

}  // namespace outrider
