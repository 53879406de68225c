#pragma once

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "tensor_checks.h"

namespace outrider::testing {

using Function = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

/// Compares autograd's gradients of Σ w·f(inputs), with random w, with central differences. Inputs
/// are float64 and contiguous; up to `samples` elements of each, spread evenly, are differenced.
inline void check_gradients(const Function& f, std::vector<at::Tensor> inputs,
                            double tolerance = 1e-7, int64_t samples = 40) {
  constexpr double kStep = 1e-5;
  for (auto& input : inputs) input = input.detach().clone().requires_grad_();
  const auto output = f(inputs);
  const auto weights = random(output.sizes(), 4711);
  const auto gradients = torch::autograd::grad({output}, inputs, {weights});
  const at::NoGradGuard no_grad;
  const auto value = [&] { return (f(inputs) * weights).sum().item<double>(); };
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto* data = inputs[i].data_ptr<double>();
    const auto gradient = gradients[i].contiguous();
    const int64_t size = inputs[i].numel(), stride = std::max<int64_t>(1, size / samples);
    for (int64_t j = 0; j < size; j += stride) {
      const double kept = data[j];
      data[j] = kept + kStep;
      const double above = value();
      data[j] = kept - kStep;
      const double below = value();
      data[j] = kept;
      const double difference = gradient.data_ptr<double>()[j] - (above - below) / (2 * kStep);
      CHECK_MESSAGE(std::abs(difference) <= tolerance, "input ", i, ", element ", j);
    }
  }
}

}  // namespace outrider::testing
