#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <string>
#include <vector>

namespace outrider::python {

/// A parameter or buffer of a draft, by its name in the draft.
struct DraftTensor {
  std::string name;
  at::Tensor tensor;
  bool is_parameter;
};

/// Parameters, then buffers, each in the order of registration.
std::vector<DraftTensor> tensors_of(const torch::nn::Module& draft);

/// Makes `slot`, a tensor that a draft holds, stand for Python's `tensor`: its storage, and its
/// place in the autograd graph, so that gradients of what is computed with the slot arrive at
/// `tensor` itself. A draft keeps its own handles to its parameters, which nobody can exchange;
/// what they refer to can be.
void bind(at::Tensor slot, const at::Tensor& tensor);

/// Lets go of storage and graph; the slot must be bound again before it is used.
void release(at::Tensor slot);

}  // namespace outrider::python
