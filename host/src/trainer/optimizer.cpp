#include "trainer/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "outrider/error.h"
#include "outrider/problems.h"

namespace outrider {

AdamW::AdamW(const std::vector<Parameter>& parameters, const AdamWOptions& options)
    : options_(options) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor, is_rounded_when_saved] : parameters) {
    const bool is_float = tensor.scalar_type() == at::kFloat;
    // For float32 the "master" is the parameter itself: the same storage without its gradient.
    const auto master = is_float ? tensor.detach() : tensor.detach().to(at::kFloat);
    slots_.push_back({name,
                      {.parameter = tensor,
                       .master = master,
                       .gradient = {},
                       .exp_avg = at::zeros_like(master),
                       .exp_avg_sq = at::zeros_like(master),
                       .step = at::zeros({}, master.options())},
                      options.decays_vectors || tensor.dim() > 1,
                      !is_float || is_rounded_when_saved});
  }
}

at::Tensor AdamW::take_gradient(size_t index) {
  const at::NoGradGuard no_grad;
  auto& gradient = slots_[index].tensors.parameter.mutable_grad();
  if (!gradient.defined()) return {};
  const bool widens = options_.widens_gradients || !gradient.is_cuda();
  const auto taken = (widens ? gradient.to(at::kFloat) : gradient).contiguous();
  gradient.reset();
  return taken;
}

void AdamW::add_gradient(size_t index, const at::Tensor& gradient) {
  const at::NoGradGuard no_grad;
  auto& sum = slots_[index].tensors.gradient;
  if (!gradient.defined()) return;
  sum = sum.defined() ? sum.to(at::kFloat).add_(gradient) : gradient;
}

void AdamW::collect_gradients() {
  for (size_t i = 0; i < slots_.size(); ++i) collect_gradient(i);
}

std::vector<at::Tensor> AdamW::gradients() const {
  std::vector<at::Tensor> tensors;
  for (const auto& slot : slots_) tensors.push_back(slot.tensors.gradient);
  return tensors;
}

std::vector<at::Tensor> AdamW::defined_gradients() const {
  auto tensors = gradients();
  std::erase_if(tensors, [](const auto& gradient) { return !gradient.defined(); });
  return tensors;
}

at::Tensor AdamW::gradient_norm() const {
  const auto tensors = defined_gradients();
  if (tensors.empty()) return at::zeros({}, slots_.front().tensors.step.options());
  return at::linalg_vector_norm(at::stack(at::_foreach_norm(tensors, 2, at::kFloat)), 2);
}

void AdamW::update(double learning_rate, const at::Tensor& gradient_scale, bool decays) {
  std::vector<ops::AdamWTensors> updated;
  for (const auto& slot : slots_) {
    if (slot.tensors.gradient.defined() && slot.decays == decays) updated.push_back(slot.tensors);
  }
  ops::adamw_(updated, gradient_scale,
              {learning_rate, options_.beta1, options_.beta2, options_.epsilon,
               decays ? options_.weight_decay : 0.0});
}

void AdamW::take_up_parameters() {
  const at::NoGradGuard no_grad;
  for (auto& slot : slots_) {
    const auto& [parameter, master, gradient, exp_avg, exp_avg_sq, step] = slot.tensors;
    if (!master.is_alias_of(parameter)) master.copy_(parameter);
  }
}

at::Tensor AdamW::step(double learning_rate) {
  const at::NoGradGuard no_grad;
  const auto norm = gradient_norm();
  at::Tensor scale;
  if (options_.max_grad_norm > 0) {
    scale = at::clamp_max(options_.max_grad_norm / (norm + 1e-6), 1.0);
  }
  for (const bool decays : {true, false}) update(learning_rate, scale, decays);
  for (auto& slot : slots_) slot.tensors.gradient.reset();
  return norm;
}

TensorMap AdamW::state() const {
  TensorMap state;
  for (const auto& slot : slots_) {
    const auto& tensors = slot.tensors;
    if (slot.has_stored_master) state["master." + slot.name] = tensors.master;
    state["exp_avg." + slot.name] = tensors.exp_avg;
    state["exp_avg_sq." + slot.name] = tensors.exp_avg_sq;
    state["step." + slot.name] = tensors.step;
  }
  return state;
}

void AdamW::load_state(const TensorMap& state) {
  const auto own = this->state();
  Problems problems;
  for (const auto& [name, tensor] : own) {
    const auto found = state.find(name);
    if (found == state.end()) {
      problems.add(fmt::format("{} is missing", name));
    } else if (found->second.sizes() != tensor.sizes()) {
      problems.add(
          fmt::format("{} has shape {}, expected {}", name, found->second.sizes(), tensor.sizes()));
    }
  }
  problems.throw_in_a_line(ErrorCode::kIncompatibleCheckpoint,
                           "the optimizer's state does not fit the model",
                           "resume with the model, and the --dtype, that the run was started with");
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : own) tensor.copy_(state.at(name));
}

}  // namespace outrider
