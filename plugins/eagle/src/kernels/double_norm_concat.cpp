#include "double_norm_concat.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "double_norm_concat_cuda.h"
#include "outrider/kernels/accumulation.h"
#include "outrider/kernels/launch.h"
#include "outrider/ops/fused_operator.h"
#include "outrider/ops/input_checks.h"

namespace outrider::eagle {
namespace {

using at::Tensor;

Tensor inverse_rms(const Tensor& wide_x, double eps) {
  return at::rsqrt(wide_x.square().mean(-1, true) + eps);
}

Tensor norm(const Tensor& x, const Tensor& weight, double eps) {
  const auto wide_x = widened(x);
  return weight * (wide_x * inverse_rms(wide_x, eps)).to(x.scalar_type());
}

struct NormGradients {
  Tensor input, weight;
};

// y = w x̂, x̂ = x r: dx = r (w dy - x̂ mean(w dy x̂)), dw = Σ dy x̂.
NormGradients norm_backward(const Tensor& grad, const Tensor& x, const Tensor& weight, double eps) {
  const auto wide_x = widened(x), d_out = widened(grad);
  const auto r = inverse_rms(wide_x, eps);
  const auto unit = wide_x * r;
  const auto d_unit = d_out * widened(weight);
  const auto d_input = r * (d_unit - unit * (d_unit * unit).mean(-1, true));
  return {d_input, (d_out * unit).reshape({-1, x.size(-1)}).sum(0)};
}

struct DoubleNormConcat {
  static constexpr char kName[] = "outrider_eagle::double_norm_concat";
  static constexpr char kArguments[] =
      "(Tensor embeddings, Tensor hidden, Tensor embedding_weight, Tensor hidden_weight, "
      "float eps, bool twice) -> Tensor";

  static void check(const Tensor& embeddings, const Tensor& hidden, const Tensor& embedding_weight,
                    const Tensor& hidden_weight, double, bool) {
    require_rows("double_norm_concat", {{"embeddings", embeddings}, {"hidden", hidden}},
                 {{"embedding_weight", embedding_weight}, {"hidden_weight", hidden_weight}});
  }

  struct Composed {
    static Tensor forward(const Tensor& embeddings, const Tensor& hidden,
                          const Tensor& embedding_weight, const Tensor& hidden_weight, double eps,
                          bool twice) {
      const auto inner = twice ? norm(hidden, embedding_weight, eps) : hidden;
      return at::cat({norm(embeddings, embedding_weight, eps), norm(inner, hidden_weight, eps)},
                     -1);
    }

    static Gradients<4> backward(const Tensor& grad, const Tensor& embeddings, const Tensor& hidden,
                                 const Tensor& embedding_weight, const Tensor& hidden_weight,
                                 double eps, bool twice, Wanted<4> wanted) {
      const auto type = hidden.scalar_type();
      const auto halves = grad.chunk(2, -1);
      auto of_embeddings = norm_backward(halves[0], embeddings, embedding_weight, eps);
      const auto inner = twice ? norm(hidden, embedding_weight, eps) : hidden;
      auto of_hidden = norm_backward(halves[1], inner, hidden_weight, eps);
      if (twice) {
        const auto outer = norm_backward(of_hidden.input, hidden, embedding_weight, eps);
        of_hidden.input = outer.input;
        of_embeddings.weight = of_embeddings.weight + outer.weight;
      }
      return {wanted[0] ? of_embeddings.input.to(type) : Tensor(), of_hidden.input.to(type),
              of_embeddings.weight.to(type), of_hidden.weight.to(type)};
    }
  };

  struct Cuda {
    static bool is_built() { return cuda::forward != nullptr; }

    // Sequences without their first or last positions are read where they lie.
    static bool has_whole_parts(const Tensor& x) {
      return x.dim() == 3 && x.numel() > 0 && x.stride(2) == 1 && x.stride(1) == x.size(2);
    }

    static cuda::RowParts parts_of(const Tensor& x) {
      if (has_whole_parts(x)) return {x.const_data_ptr(), x.size(1), x.stride(0)};
      return {x.const_data_ptr(), std::max<int64_t>(1, kernels::rows_of(x).count), 0};
    }

    // Inputs that kernels can read, and their addresses.
    struct Inputs {
      Tensor e, g, w_e, w_h;

      Inputs(const Tensor& embeddings, const Tensor& hidden, const Tensor& embedding_weight,
             const Tensor& hidden_weight)
          : e(readable(embeddings)),
            g(readable(hidden)),
            w_e(embedding_weight.contiguous()),
            w_h(hidden_weight.contiguous()) {}

      static Tensor readable(const Tensor& x) { return has_whole_parts(x) ? x : x.contiguous(); }

      cuda::DoubleNormInputs pointers() const {
        return {parts_of(e), parts_of(g), w_e.const_data_ptr(), w_h.const_data_ptr()};
      }
    };

    static Tensor contiguous_like(const Tensor& x) { return at::empty(x.sizes(), x.options()); }

    static cuda::DoubleNormShape shape_of(const kernels::Launch& launch, const Tensor& hidden,
                                          double eps, bool twice) {
      const auto [rows, width] = kernels::rows_of(hidden);
      return {launch.type(), rows, width, eps, twice};
    }

    static Tensor forward(const Tensor& embeddings, const Tensor& hidden,
                          const Tensor& embedding_weight, const Tensor& hidden_weight, double eps,
                          bool twice) {
      const kernels::Launch launch("double_norm_concat", hidden);
      const Inputs in(embeddings, hidden, embedding_weight, hidden_weight);
      auto sizes = hidden.sizes().vec();
      sizes.back() *= 2;
      auto out = at::empty(sizes, hidden.options());
      launch.check(cuda::forward(shape_of(launch, in.g, eps, twice), in.pointers(), out.data_ptr(),
                                 launch.stream()));
      return out;
    }

    static Gradients<4> backward(const Tensor& grad, const Tensor& embeddings, const Tensor& hidden,
                                 const Tensor& embedding_weight, const Tensor& hidden_weight,
                                 double eps, bool twice, Wanted<4> wanted) {
      const kernels::Launch launch("double_norm_concat_backward", hidden);
      const Inputs in(embeddings, hidden, embedding_weight, hidden_weight);
      const auto d_out = grad.contiguous();
      const auto shape = shape_of(launch, in.g, eps, twice);
      auto d_e = wanted[0] ? contiguous_like(in.e) : Tensor();
      auto d_g = contiguous_like(in.g), d_w_e = at::empty_like(in.w_e);
      auto d_w_h = at::empty_like(in.w_h);
      auto workspace = launch.workspace(cuda::backward_workspace_bytes(shape));
      launch.check(cuda::backward(shape, in.pointers(), d_out.const_data_ptr(),
                                  {wanted[0] ? d_e.data_ptr() : nullptr, d_g.data_ptr(),
                                   d_w_e.data_ptr(), d_w_h.data_ptr()},
                                  workspace.data_ptr(), launch.stream()));
      return {d_e, d_g, d_w_e, d_w_h};
    }
  };
};

std::vector<OperatorInputs> sample_inputs(at::ScalarType type) {
  std::vector<OperatorInputs> samples;
  const auto options = at::TensorOptions().dtype(type);
  for (const bool twice : {false, true}) {
    for (const auto& sizes : std::vector<std::vector<int64_t>>{{2, 3, 8}, {5, 96}, {1, 7, 576}}) {
      const int64_t size = sizes.back();
      samples.push_back({at::randn(sizes, options), at::randn(sizes, options),
                         at::rand({size}, options) + 0.5, at::rand({size}, options) + 0.5, 1e-5,
                         twice});
    }
  }
  return samples;
}

}  // namespace

Tensor double_norm_concat(const Tensor& embeddings, const Tensor& hidden,
                          const Tensor& embedding_weight, const Tensor& hidden_weight, double eps,
                          bool twice) {
  return FusedOperator<DoubleNormConcat>::call(embeddings, hidden, embedding_weight, hidden_weight,
                                               eps, twice);
}

void register_double_norm_concat() {
  FusedOperator<DoubleNormConcat>::add({.sample_inputs = sample_inputs});
}

}  // namespace outrider::eagle
