#include "outrider/ops/adamw.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/adamw.h"
#include "outrider/error.h"
#include "outrider/kernels/launch.h"

namespace outrider::ops {
namespace {

bool is_its_own_master(const AdamWTensors& p) { return p.master.is_alias_of(p.parameter); }

// The kernel sees tensors as values in a row.
bool fits_kernel(const AdamWTensors& p) {
  const auto type = p.gradient.scalar_type();
  return std::ranges::all_of(std::initializer_list<at::Tensor>{p.parameter, p.master, p.gradient,
                                                               p.exp_avg, p.exp_avg_sq},
                             [&](const at::Tensor& x) {
                               return x.is_contiguous() && x.numel() == p.master.numel();
                             }) &&
         (type == at::kFloat || type == p.parameter.scalar_type());
}

void update_in_one_pass(const AdamWTensors& p, const at::Tensor& scale,
                        const AdamWCoefficients& c) {
  if (kernels::cuda::adamw == nullptr) kernels::throw_no_kernel("adamw");
  if (!fits_kernel(p)) {
    throw Error(ErrorCode::kInternal, "adamw_: tensors that are not contiguous or of other types");
  }
  const kernels::Launch launch("adamw", p.parameter);
  launch.check(kernels::cuda::adamw(
      launch.type(), p.gradient.scalar_type() == at::kFloat,
      {.master = p.master.mutable_data_ptr<float>(),
       .exp_avg = p.exp_avg.mutable_data_ptr<float>(),
       .exp_avg_sq = p.exp_avg_sq.mutable_data_ptr<float>(),
       .gradient = p.gradient.const_data_ptr(),
       .parameter = is_its_own_master(p) ? nullptr : p.parameter.mutable_data_ptr(),
       .step = p.step.const_data_ptr<float>(),
       .gradient_scale = scale.defined() ? scale.const_data_ptr<float>() : nullptr,
       .size = p.master.numel()},
      c, launch.stream()));
}

std::vector<at::Tensor> gathered(const std::vector<AdamWTensors>& parameters,
                                 at::Tensor AdamWTensors::*member) {
  std::vector<at::Tensor> tensors;
  for (const auto& p : parameters) tensors.push_back(p.*member);
  return tensors;
}

void update_by_operators(const std::vector<AdamWTensors>& parameters, const at::Tensor& scale,
                         const AdamWCoefficients& c) {
  const auto gradients = gathered(parameters, &AdamWTensors::gradient);
  if (scale.defined()) at::_foreach_mul_(gradients, scale);
  at::_fused_adamw_(gathered(parameters, &AdamWTensors::master), gradients,
                    gathered(parameters, &AdamWTensors::exp_avg),
                    gathered(parameters, &AdamWTensors::exp_avg_sq), /*max_exp_avg_sqs=*/{},
                    gathered(parameters, &AdamWTensors::step), c.learning_rate, c.beta1, c.beta2,
                    c.weight_decay, c.epsilon, /*amsgrad=*/false, /*maximize=*/false);
  for (const auto& p : parameters) {
    if (!is_its_own_master(p)) at::Tensor(p.parameter).copy_(p.master);
  }
}

}  // namespace

void adamw_(const std::vector<AdamWTensors>& parameters, const at::Tensor& gradient_scale,
            const AdamWCoefficients& coefficients) {
  if (parameters.empty()) return;
  at::_foreach_add_(gathered(parameters, &AdamWTensors::step), 1);
  if (!parameters.front().master.is_cuda()) {
    return update_by_operators(parameters, gradient_scale, coefficients);
  }
  for (const auto& p : parameters) update_in_one_pass(p, gradient_scale, coefficients);
}

}  // namespace outrider::ops
