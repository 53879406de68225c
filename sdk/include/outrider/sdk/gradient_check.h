#pragma once

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

namespace outrider {

/// An element of an input whose gradient by autograd is not the central difference.
struct GradientMismatch {
  size_t input;
  int64_t element;
  double autograd, difference;
};

/// Compares autograd's gradients of Σ w·f(inputs), with a fixed w that has no pattern, with central
/// differences. `inputs` are float64 and contiguous; up to `samples` elements of each, spread
/// evenly, are differenced. `tolerance` is relative to max(1, |gradient|).
inline std::vector<GradientMismatch> gradient_mismatches(
    const std::function<at::Tensor(const std::vector<at::Tensor>&)>& f,
    std::vector<at::Tensor> inputs, double tolerance = 1e-7, int64_t samples = 40) {
  constexpr double kStep = 1e-5;
  for (auto& input : inputs) input = input.detach().clone().requires_grad_();
  const auto output = f(inputs);
  const auto weights =
      at::sin(at::arange(output.numel(), output.options().requires_grad(false)).square() * 0.7 + 1)
          .reshape(output.sizes());
  const auto gradients = torch::autograd::grad({output}, inputs, {weights}, /*retain_graph=*/false,
                                               /*create_graph=*/false, /*allow_unused=*/true);
  const at::NoGradGuard no_grad;
  const auto value = [&] { return (f(inputs) * weights).sum().item<double>(); };
  std::vector<GradientMismatch> mismatches;
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto* data = inputs[i].data_ptr<double>();
    const auto gradient =
        gradients[i].defined() ? gradients[i].contiguous() : at::zeros_like(inputs[i]);
    const int64_t size = inputs[i].numel(), stride = std::max<int64_t>(1, size / samples);
    for (int64_t j = 0; j < size; j += stride) {
      const double kept = data[j];
      data[j] = kept + kStep;
      const double above = value();
      data[j] = kept - kStep;
      const double below = value();
      data[j] = kept;
      const double expected = (above - below) / (2 * kStep), found = gradient.data_ptr<double>()[j];
      // Not "greater than": NaN is a mismatch too.
      if (!(std::abs(found - expected) <= tolerance * std::max(1.0, std::abs(expected)))) {
        mismatches.push_back({i, j, found, expected});
      }
    }
  }
  return mismatches;
}

}  // namespace outrider
