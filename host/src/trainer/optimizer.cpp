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
    slots_.push_back({name, tensor, master, at::zeros_like(master), at::zeros_like(master),
                      at::zeros({}, master.options()), at::Tensor(),
                      options.decays_vectors || tensor.dim() > 1,
                      !is_float || is_rounded_when_saved});
  }
}

at::Tensor AdamW::take_gradient(size_t index) {
  const at::NoGradGuard no_grad;
  auto& gradient = slots_[index].parameter.mutable_grad();
  if (!gradient.defined()) return {};
  const auto taken = gradient.to(at::kFloat).contiguous();
  gradient.reset();
  return taken;
}

void AdamW::add_gradient(size_t index, const at::Tensor& gradient) {
  const at::NoGradGuard no_grad;
  auto& sum = slots_[index].gradient;
  if (!gradient.defined()) return;
  if (sum.defined()) {
    sum.add_(gradient);
  } else {
    sum = gradient;
  }
}

std::vector<at::Tensor> AdamW::gather(at::Tensor Slot::*member, bool decays) const {
  std::vector<at::Tensor> tensors;
  for (const auto& slot : slots_) {
    if (slot.gradient.defined() && slot.decays == decays) tensors.push_back(slot.*member);
  }
  return tensors;
}

void AdamW::collect_gradients() {
  for (size_t i = 0; i < slots_.size(); ++i) collect_gradient(i);
}

std::vector<at::Tensor> AdamW::gradients() const {
  std::vector<at::Tensor> tensors;
  for (const auto& slot : slots_) tensors.push_back(slot.gradient);
  return tensors;
}

std::vector<at::Tensor> AdamW::defined_gradients() const {
  auto tensors = gradients();
  std::erase_if(tensors, [](const auto& gradient) { return !gradient.defined(); });
  return tensors;
}

at::Tensor AdamW::clip_gradients() const {
  const auto tensors = defined_gradients();
  if (tensors.empty()) return at::zeros({}, slots_.front().step.options());
  const auto norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(tensors, 2)), 2);
  if (options_.max_grad_norm > 0) {
    at::_foreach_mul_(tensors, at::clamp_max(options_.max_grad_norm / (norm + 1e-6), 1.0));
  }
  return norm;
}

void AdamW::update(double learning_rate, bool decays) {
  const auto masters = gather(&Slot::master, decays);
  if (masters.empty()) return;
  const auto steps = gather(&Slot::step, decays);
  at::_foreach_add_(steps, 1);
  at::_fused_adamw_(masters, gather(&Slot::gradient, decays), gather(&Slot::exp_avg, decays),
                    gather(&Slot::exp_avg_sq, decays), /*max_exp_avg_sqs=*/{}, steps, learning_rate,
                    options_.beta1, options_.beta2, decays ? options_.weight_decay : 0.0,
                    options_.epsilon, /*amsgrad=*/false, /*maximize=*/false);
}

void AdamW::round_masters() const {
  std::vector<at::Tensor> parameters, masters;
  for (const auto& slot : slots_) {
    if (!slot.gradient.defined() || slot.master.is_alias_of(slot.parameter)) continue;
    parameters.push_back(slot.parameter);
    masters.push_back(slot.master);
  }
  if (!parameters.empty()) at::_foreach_copy_(parameters, masters);
}

void AdamW::take_up_parameters() {
  const at::NoGradGuard no_grad;
  for (auto& slot : slots_) {
    if (!slot.master.is_alias_of(slot.parameter)) slot.master.copy_(slot.parameter);
  }
}

at::Tensor AdamW::step(double learning_rate) {
  const at::NoGradGuard no_grad;
  const auto norm = clip_gradients();
  update(learning_rate, /*decays=*/true);
  update(learning_rate, /*decays=*/false);
  round_masters();
  for (auto& slot : slots_) slot.gradient.reset();
  return norm;
}

TensorMap AdamW::state() const {
  TensorMap state;
  for (const auto& slot : slots_) {
    if (slot.has_stored_master) state["master." + slot.name] = slot.master;
    state["exp_avg." + slot.name] = slot.exp_avg;
    state["exp_avg_sq." + slot.name] = slot.exp_avg_sq;
    state["step." + slot.name] = slot.step;
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
