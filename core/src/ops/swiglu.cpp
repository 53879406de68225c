#include "outrider/ops/swiglu.h"

#include <ATen/ATen.h>

#include "kernels/cuda/swiglu.h"
#include "ops/core_operators.h"
#include "outrider/kernels/accumulation.h"
#include "outrider/kernels/launch.h"
#include "outrider/ops/fused_operator.h"
#include "outrider/ops/input_checks.h"

namespace outrider {
namespace {

using at::Tensor;

struct SwiGluOperator {
  static constexpr char kName[] = "outrider::swiglu";
  static constexpr char kArguments[] = "(Tensor gate, Tensor up) -> Tensor";

  static void check(const Tensor& gate, const Tensor& up) {
    require_rows("swiglu", {{"gate", gate}, {"up", up}});
  }

  struct Composed {
    static Tensor forward(const Tensor& gate, const Tensor& up) { return at::silu(gate) * up; }

    static Gradients<2> backward(const Tensor& grad, const Tensor& gate, const Tensor& up,
                                 Wanted<2>) {
      const auto wide = widened(gate), d_out = widened(grad);
      const auto type = gate.scalar_type();
      return {at::silu_backward(d_out * widened(up), wide).to(type),
              (d_out * at::silu(wide)).to(type)};
    }
  };

  struct Cuda {
    static bool is_built() { return cuda::swiglu != nullptr; }

    static Tensor forward(const Tensor& gate, const Tensor& up) {
      const kernels::Launch launch("swiglu", gate);
      const auto g = gate.contiguous(), u = up.contiguous();
      auto y = at::empty_like(g);
      launch.check(cuda::swiglu(launch.type(), g.numel(), g.const_data_ptr(), u.const_data_ptr(),
                                y.data_ptr(), launch.stream()));
      return y;
    }

    static Gradients<2> backward(const Tensor& grad, const Tensor& gate, const Tensor& up,
                                 Wanted<2>) {
      const kernels::Launch launch("swiglu_backward", gate);
      const auto g = gate.contiguous(), u = up.contiguous(), d = grad.contiguous();
      auto d_gate = at::empty_like(g), d_up = at::empty_like(u);
      launch.check(cuda::swiglu_backward(launch.type(), g.numel(), d.const_data_ptr(),
                                         g.const_data_ptr(), u.const_data_ptr(), d_gate.data_ptr(),
                                         d_up.data_ptr(), launch.stream()));
      return {d_gate, d_up};
    }
  };
};

std::vector<OperatorInputs> swiglu_samples(at::ScalarType type) {
  std::vector<OperatorInputs> samples;
  for (const auto& sizes : std::vector<std::vector<int64_t>>{{2, 3, 8}, {5, 97}, {1, 7, 576}}) {
    const auto draw = [&] { return at::randn(sizes, at::TensorOptions().dtype(type)); };
    samples.push_back({draw(), draw()});
  }
  return samples;
}

}  // namespace

OperatorSpec define_swiglu() {
  return FusedOperator<SwiGluOperator>::define({.sample_inputs = swiglu_samples});
}

at::Tensor ops::swiglu(const at::Tensor& gate, const at::Tensor& up) {
  require_core_operators();
  return FusedOperator<SwiGluOperator>::call(gate, up);
}

}  // namespace outrider
