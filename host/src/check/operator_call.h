#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd.h>

#include <string>
#include <vector>

#include "outrider/ops/operator_library.h"

namespace outrider::check {

/// Copies of an operator's inputs on a device; tensors of floating point want gradients.
inline OperatorInputs moved(const OperatorInputs& inputs, at::Device device) {
  OperatorInputs result;
  for (const auto& value : inputs) {
    if (!value.isTensor()) {
      result.push_back(value);
      continue;
    }
    auto tensor = value.toTensor().detach().to(device, /*non_blocking=*/false, /*copy=*/true);
    if (tensor.is_floating_point()) tensor.requires_grad_();
    result.emplace_back(tensor);
  }
  return result;
}

/// The tensors that an operator returns.
inline std::vector<at::Tensor> outputs_of(const std::string& name, const OperatorInputs& inputs) {
  std::vector<c10::IValue> stack = inputs;
  c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "").callBoxed(stack);
  std::vector<at::Tensor> outputs;
  for (const auto& value : stack) {
    if (value.isTensor()) outputs.push_back(value.toTensor());
  }
  return outputs;
}

/// The operator's outputs, then the gradients of its inputs for one fixed direction.
inline std::vector<at::Tensor> outputs_and_gradients(const std::string& name,
                                                     const OperatorInputs& inputs) {
  std::vector<at::Tensor> results, wanted, roots, directions;
  for (const auto& output : outputs_of(name, inputs)) {
    results.push_back(output.detach());
    if (!output.requires_grad()) continue;
    roots.push_back(output);
    const auto place = at::arange(1, output.numel() + 1, at::kFloat).reshape(output.sizes());
    directions.push_back(at::sin(place).to(output.options().requires_grad(false)));
  }
  for (const auto& value : inputs) {
    if (value.isTensor() && value.toTensor().requires_grad()) wanted.push_back(value.toTensor());
  }
  if (roots.empty()) return results;
  for (const auto& grad : torch::autograd::grad(roots, wanted, directions, /*retain_graph=*/{},
                                                /*create_graph=*/false, /*allow_unused=*/true)) {
    if (grad.defined()) results.push_back(grad);
  }
  return results;
}

}  // namespace outrider::check
