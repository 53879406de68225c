#include "residual_block.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "outrider/error.h"
#include "outrider/kernels/current_stream.h"
#include "outrider/kernels/scalar_type.h"
#include "outrider/ops/find_operator.h"
#include "outrider/ops/operator_library.h"
#include "residual_block_cuda.h"

namespace outrider::medusa {
namespace {

constexpr char kNamespace[] = "outrider_medusa";
// residual_silu: x + silu(z + bias), with z the matrix product.
constexpr char kForward[] = "residual_silu(Tensor x, Tensor z, Tensor bias) -> Tensor";
constexpr char kBackward[] =
    "residual_silu_backward(Tensor grad, Tensor z, Tensor bias) -> (Tensor, Tensor)";

using Gradients = std::tuple<at::Tensor, at::Tensor>;
using ForwardSignature = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&);
using BackwardSignature = Gradients(const at::Tensor&, const at::Tensor&, const at::Tensor&);

void check_inputs(const at::Tensor& x, const at::Tensor& z, const at::Tensor& bias) {
  const bool fits = x.dim() >= 1 && x.sizes() == z.sizes() && bias.dim() == 1 &&
                    bias.size(0) == x.size(-1) && x.scalar_type() == z.scalar_type() &&
                    bias.scalar_type() == x.scalar_type();
  if (!fits) {
    throw Error(ErrorCode::kInternal, "residual_silu: x and z [...,h], bias [h], all of one type");
  }
}

at::Tensor wide(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

at::Tensor forward_cpu(const at::Tensor& x, const at::Tensor& z, const at::Tensor& bias) {
  check_inputs(x, z, bias);
  return (wide(x) + at::silu(wide(z) + wide(bias))).to(x.scalar_type());
}

Gradients backward_cpu(const at::Tensor& grad, const at::Tensor& z, const at::Tensor& bias) {
  const auto d_z = at::silu_backward(wide(grad), wide(z) + wide(bias));
  return {d_z.to(z.scalar_type()), d_z.reshape({-1, z.size(-1)}).sum(0).to(z.scalar_type())};
}

cuda::ResidualBlockShape device_shape(const at::Tensor& z) {
  return {kernels::data_type(z.scalar_type(), "residual_silu"), z.numel() / z.size(-1), z.size(-1)};
}

void check_status(int status) {
  if (status != 0) {
    throw Error(ErrorCode::kInternal,
                std::string("CUDA kernel residual_silu: ") + cuda::error_text(status));
  }
}

at::Tensor forward_cuda(const at::Tensor& x, const at::Tensor& z, const at::Tensor& bias) {
  check_inputs(x, z, bias);
  const c10::DeviceGuard guard(x.device());
  const auto rows = x.contiguous(), product = z.contiguous(), b = bias.contiguous();
  auto y = at::empty_like(rows);
  check_status(cuda::forward(device_shape(product),
                             {rows.const_data_ptr(), product.const_data_ptr(), b.const_data_ptr()},
                             y.data_ptr(), kernels::current_stream(x.device())));
  return y;
}

Gradients backward_cuda(const at::Tensor& grad, const at::Tensor& z, const at::Tensor& bias) {
  const c10::DeviceGuard guard(z.device());
  const auto d_y = grad.contiguous(), product = z.contiguous(), b = bias.contiguous();
  const auto shape = device_shape(product);
  auto d_z = at::empty_like(product), d_bias = at::empty_like(b);
  auto workspace = at::empty({static_cast<int64_t>(cuda::backward_workspace_bytes(shape))},
                             z.options().dtype(at::kByte));
  check_status(cuda::backward(shape, {nullptr, product.const_data_ptr(), b.const_data_ptr()},
                              d_y.const_data_ptr(), {d_z.data_ptr(), d_bias.data_ptr()},
                              workspace.data_ptr(), kernels::current_stream(z.device())));
  return {d_z, d_bias};
}

struct ResidualSilu : torch::autograd::Function<ResidualSilu> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x,
                            const at::Tensor& z, const at::Tensor& bias) {
    ctx->save_for_backward({z, bias});
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    static const auto op = find_operator<ForwardSignature>("outrider_medusa::residual_silu");
    return op.call(x, z, bias);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    static const auto op =
        find_operator<BackwardSignature>("outrider_medusa::residual_silu_backward");
    const auto [d_z, d_bias] = op.call(grads[0], saved[0], saved[1]);
    return {grads[0], d_z, d_bias};
  }
};

at::Tensor forward_autograd(const at::Tensor& x, const at::Tensor& z, const at::Tensor& bias) {
  return ResidualSilu::apply(x, z, bias);
}

std::vector<OperatorInputs> sample_inputs(at::ScalarType type) {
  std::vector<OperatorInputs> samples;
  const auto options = at::TensorOptions().dtype(type);
  for (const auto& sizes : std::vector<std::vector<int64_t>>{{2, 3, 8}, {5, 96}, {1, 7, 576}}) {
    samples.push_back(
        {at::randn(sizes, options), at::randn(sizes, options), at::randn({sizes.back()}, options)});
  }
  return samples;
}

}  // namespace

at::Tensor residual_block(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  static const auto op = find_operator<ForwardSignature>("outrider_medusa::residual_silu");
  return op.call(x, at::linear(x, weight), bias);
}

void register_residual_block() {
  auto& definitions = define_operator_namespace(kNamespace);
  definitions.def(kForward);
  definitions.def(kBackward);
  auto& cpu = implement_operators(kNamespace, c10::DispatchKey::CPU);
  cpu.impl("residual_silu", forward_cpu);
  cpu.impl("residual_silu_backward", backward_cpu);
  if (cuda::available()) {
    auto& device = implement_operators(kNamespace, c10::DispatchKey::CUDA);
    device.impl("residual_silu", forward_cuda);
    device.impl("residual_silu_backward", backward_cuda);
  }
  implement_operators(kNamespace, c10::DispatchKey::Autograd)
      .impl("residual_silu", forward_autograd);
  add_operator_spec({.name = "outrider_medusa::residual_silu", .sample_inputs = sample_inputs});
}

}  // namespace outrider::medusa
