#include "residual_block.h"

#include <ATen/ATen.h>

#include "outrider/kernels/accumulation.h"
#include "outrider/kernels/launch.h"
#include "outrider/ops/fused_operator.h"
#include "outrider/ops/input_checks.h"
#include "outrider/ops/linear.h"
#include "residual_block_cuda.h"

namespace outrider::medusa {
namespace {

using at::Tensor;

// x + silu(z + bias), with z the matrix product.
struct ResidualSilu {
  static constexpr char kName[] = "outrider_medusa::residual_silu";
  static constexpr char kArguments[] = "(Tensor x, Tensor z, Tensor bias) -> Tensor";
  static constexpr std::array kKept = {false, true, true};

  static void check(const Tensor& x, const Tensor& z, const Tensor& bias) {
    require_rows("residual_silu", {{"x", x}, {"z", z}}, {{"bias", bias}});
  }

  struct Composed {
    static Tensor forward(const Tensor& x, const Tensor& z, const Tensor& bias) {
      return (widened(x) + at::silu(widened(z) + widened(bias))).to(x.scalar_type());
    }

    static Gradients<3> backward(const Tensor& grad, const Tensor&, const Tensor& z,
                                 const Tensor& bias, Wanted<3>) {
      const auto d_z = at::silu_backward(widened(grad), widened(z) + widened(bias));
      const auto type = z.scalar_type();
      return {grad, d_z.to(type), d_z.reshape({-1, z.size(-1)}).sum(0).to(type)};
    }
  };

  struct Cuda {
    static bool is_built() { return cuda::forward != nullptr; }

    static cuda::ResidualBlockShape shape_of(const kernels::Launch& launch, const Tensor& z) {
      const auto [rows, hidden] = kernels::rows_of(z);
      return {launch.type(), rows, hidden};
    }

    static Tensor forward(const Tensor& x, const Tensor& z, const Tensor& bias) {
      const kernels::Launch launch("residual_silu", x);
      const auto rows = x.contiguous(), product = z.contiguous(), b = bias.contiguous();
      auto y = at::empty_like(rows);
      launch.check(
          cuda::forward(shape_of(launch, product),
                        {rows.const_data_ptr(), product.const_data_ptr(), b.const_data_ptr()},
                        y.data_ptr(), launch.stream()));
      return y;
    }

    static Gradients<3> backward(const Tensor& grad, const Tensor&, const Tensor& z,
                                 const Tensor& bias, Wanted<3>) {
      const kernels::Launch launch("residual_silu_backward", z);
      const auto d_y = grad.contiguous(), product = z.contiguous(), b = bias.contiguous();
      const auto shape = shape_of(launch, product);
      auto d_z = at::empty_like(product), d_bias = at::empty_like(b);
      auto workspace = launch.workspace(cuda::backward_workspace_bytes(shape));
      launch.check(cuda::backward(shape, {nullptr, product.const_data_ptr(), b.const_data_ptr()},
                                  d_y.const_data_ptr(), {d_z.data_ptr(), d_bias.data_ptr()},
                                  workspace.data_ptr(), launch.stream()));
      return {grad, d_z, d_bias};
    }
  };
};

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

Tensor residual_block(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return FusedOperator<ResidualSilu>::call(x, ops::linear(x, weight), bias);
}

void register_residual_block() {
  FusedOperator<ResidualSilu>::add({.sample_inputs = sample_inputs});
}

}  // namespace outrider::medusa
