#include "outrider/ops/rms_norm.h"

#include <ATen/ATen.h>

#include "kernels/cuda/rms_norm.h"
#include "ops/core_operators.h"
#include "ops/rms_norm_gradients.h"
#include "outrider/kernels/accumulation.h"
#include "outrider/kernels/launch.h"
#include "outrider/ops/fused_operator.h"
#include "outrider/ops/input_checks.h"

namespace outrider {
namespace {

using at::Tensor;

Tensor inverse_rms(const Tensor& wide_x, double eps) {
  return at::rsqrt(wide_x.square().mean(-1, /*keepdim=*/true) + eps);
}

struct RmsNormOperator {
  static constexpr char kName[] = "outrider::rms_norm";
  static constexpr char kArguments[] = "(Tensor x, Tensor weight, float eps) -> Tensor";

  static void check(const Tensor& x, const Tensor& weight, double) {
    require_rows("rms_norm", {{"x", x}}, {{"weight", weight}});
  }

  struct Composed {
    static Tensor forward(const Tensor& x, const Tensor& weight, double eps) {
      const auto wide = widened(x);
      return weight * (wide * inverse_rms(wide, eps)).to(x.scalar_type());
    }

    static Gradients<2> backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                 double eps, Wanted<2> wanted) {
      auto gradients = wide_backward(grad, x, weight, eps, wanted);
      if (wanted[1]) gradients[1] = gradients[1].to(weight.scalar_type());
      return gradients;
    }

    // y = w x̂, x̂ = x r: dx = r (w dy - x̂ mean(w dy x̂)), dw = Σ dy x̂, which stays wide.
    static Gradients<2> wide_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                      double eps, Wanted<2> wanted) {
      const auto wide = widened(x), d_out = widened(grad);
      const auto r = inverse_rms(wide, eps);
      const auto unit = wide * r;
      Gradients<2> gradients;
      if (wanted[0]) {
        const auto d_unit = d_out * widened(weight);
        const auto d_x = r * (d_unit - unit * (d_unit * unit).mean(-1, true));
        gradients[0] = d_x.to(x.scalar_type());
      }
      if (wanted[1]) gradients[1] = (d_out * unit).reshape({-1, x.size(-1)}).sum(0);
      return gradients;
    }
  };

  struct Cuda {
    static bool is_built() { return cuda::rms_norm != nullptr; }

    static cuda::RmsNormShape shape_of(const kernels::Launch& launch, const Tensor& x, double eps) {
      const auto [rows, width] = kernels::rows_of(x);
      return {launch.type(), rows, width, eps};
    }

    static Tensor forward(const Tensor& x, const Tensor& weight, double eps) {
      const kernels::Launch launch("rms_norm", x);
      const auto in = x.contiguous(), w = weight.contiguous();
      auto y = at::empty_like(in);
      launch.check(cuda::rms_norm(shape_of(launch, in, eps), in.const_data_ptr(),
                                  w.const_data_ptr(), y.data_ptr(), launch.stream()));
      return y;
    }

    static Gradients<2> backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                 double eps, Wanted<2> wanted) {
      return launch_backward(grad, x, weight, eps, wanted, weight.scalar_type());
    }

    static Gradients<2> launch_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                        double eps, Wanted<2> wanted, at::ScalarType d_w_type) {
      const kernels::Launch launch("rms_norm_backward", x);
      const auto in = x.contiguous(), w = weight.contiguous(), d_out = grad.contiguous();
      const auto shape = shape_of(launch, in, eps);
      auto d_x = wanted[0] ? at::empty_like(in) : Tensor();
      auto d_w = at::empty_like(w, d_w_type);
      auto workspace = launch.workspace(cuda::rms_norm_workspace_bytes(shape));
      launch.check(cuda::rms_norm_backward(
          shape, d_out.const_data_ptr(), in.const_data_ptr(), w.const_data_ptr(),
          {wanted[0] ? d_x.data_ptr() : nullptr, d_w.data_ptr(), d_w_type != w.scalar_type()},
          workspace.data_ptr(), launch.stream()));
      return {d_x, d_w};
    }
  };
};

std::vector<OperatorInputs> rms_norm_samples(at::ScalarType type) {
  std::vector<OperatorInputs> samples;
  const auto options = at::TensorOptions().dtype(type);
  for (const auto& sizes : std::vector<std::vector<int64_t>>{{2, 3, 8}, {5, 96}, {1, 7, 576}}) {
    samples.push_back({at::randn(sizes, options), at::rand({sizes.back()}, options) + 0.5, 1e-5});
  }
  return samples;
}

}  // namespace

OperatorSpec define_rms_norm() {
  return FusedOperator<RmsNormOperator>::define({.sample_inputs = rms_norm_samples});
}

at::Tensor ops::rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (weight.scalar_type() != x.scalar_type()) {
    return RmsNormOperator::Composed::forward(x, weight, eps);
  }
  require_core_operators();
  return FusedOperator<RmsNormOperator>::call(x, weight, eps);
}

ops::RmsNormGradients ops::rms_norm_gradients(const at::Tensor& grad, const at::Tensor& x,
                                              const at::Tensor& weight, double eps) {
  using Op = RmsNormOperator;
  const bool has_kernel = x.is_cuda() && x.scalar_type() == weight.scalar_type();
  const Wanted<2> both = {true, true};
  const auto gradients =
      has_kernel ? Op::Cuda::launch_backward(grad, x, weight, eps, both, accumulation_type(weight))
                 : Op::Composed::wide_backward(grad, x, weight, eps, both);
  return {gradients[0], gradients[1]};
}

}  // namespace outrider
