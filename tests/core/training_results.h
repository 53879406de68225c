#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "outrider/model/causal_lm.h"

namespace outrider::testing {

/// The loss and what it says of its steps, then the gradients of the draft: one tensor, to be
/// compared.
inline at::Tensor results_of(CausalLM& model, const ForwardInput& input) {
  const auto output = model.forward(input);
  output.loss.backward();
  std::vector<at::Tensor> results{output.loss.detach().reshape(1)};
  for (const auto& step : output.draft_losses.front().steps) {
    for (const auto& value : {step.loss, step.accuracy, step.overlap, step.count}) {
      results.push_back(value.detach().to(at::kDouble).reshape(1));
    }
  }
  for (const auto& parameter : model.speculative_state().front().draft->parameters()) {
    results.push_back(parameter.grad().flatten());
  }
  return at::cat(results);
}

}  // namespace outrider::testing
