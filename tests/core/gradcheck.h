#pragma once

#include <doctest/doctest.h>

#include "outrider/sdk/gradient_check.h"
#include "tensor_checks.h"

namespace outrider::testing {

inline void check_gradients(const std::function<at::Tensor(const std::vector<at::Tensor>&)>& f,
                            const std::vector<at::Tensor>& inputs, double tolerance = 1e-7,
                            int64_t samples = 40) {
  for (const auto& wrong : gradient_mismatches(f, inputs, tolerance, samples)) {
    CHECK_MESSAGE(false, "input ", wrong.input, ", element ", wrong.element, ": ", wrong.autograd,
                  " by autograd, ", wrong.difference, " by differences");
  }
}

}  // namespace outrider::testing
