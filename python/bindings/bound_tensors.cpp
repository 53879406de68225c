#include "bound_tensors.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/variable.h>

namespace outrider::python {
namespace impl = torch::autograd::impl;

namespace {

void leave_graph(at::Tensor& slot) {
  impl::set_gradient_edge(slot, torch::autograd::Edge());
  slot.requires_grad_(false);
}

}  // namespace

std::vector<DraftTensor> tensors_of(const torch::nn::Module& draft) {
  std::vector<DraftTensor> tensors;
  for (const auto& item : draft.named_parameters()) {
    tensors.push_back({item.key(), item.value(), true});
  }
  for (const auto& item : draft.named_buffers()) {
    tensors.push_back({item.key(), item.value(), false});
  }
  return tensors;
}

void bind(at::Tensor slot, const at::Tensor& tensor) {
  leave_graph(slot);
  slot.set_data(tensor.detach());
  if (tensor.requires_grad() && at::GradMode::is_enabled()) {
    impl::set_gradient_edge(slot, impl::gradient_edge(tensor));
  }
}

void release(at::Tensor slot) {
  leave_graph(slot);
  slot.set_data(at::empty({0}, slot.options()));
}

}  // namespace outrider::python
