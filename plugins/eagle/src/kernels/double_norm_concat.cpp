#include "double_norm_concat.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "double_norm_concat_cuda.h"
#include "outrider/error.h"
#include "outrider/kernels/current_stream.h"
#include "outrider/kernels/scalar_type.h"
#include "outrider/ops/find_operator.h"
#include "outrider/ops/operator_library.h"

namespace outrider::eagle {
namespace {

constexpr char kNamespace[] = "outrider_eagle";
constexpr char kForward[] =
    "double_norm_concat(Tensor embeddings, Tensor hidden, Tensor embedding_weight, "
    "Tensor hidden_weight, float eps, bool twice) -> Tensor";
constexpr char kBackward[] =
    "double_norm_concat_backward(Tensor grad, Tensor embeddings, Tensor hidden, "
    "Tensor embedding_weight, Tensor hidden_weight, float eps, bool twice, bool need_embeddings) "
    "-> "
    "(Tensor, Tensor, Tensor, Tensor)";

using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using ForwardSignature = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                    const at::Tensor&, double, bool);
using BackwardSignature = Gradients(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                    const at::Tensor&, const at::Tensor&, double, bool, bool);

void check_inputs(const at::Tensor& embeddings, const at::Tensor& hidden,
                  const at::Tensor& embedding_weight, const at::Tensor& hidden_weight) {
  const bool fits = embeddings.dim() >= 1 && embeddings.sizes() == hidden.sizes() &&
                    embedding_weight.dim() == 1 &&
                    hidden_weight.sizes() == embedding_weight.sizes() &&
                    embedding_weight.size(0) == hidden.size(-1) &&
                    embeddings.scalar_type() == hidden.scalar_type() &&
                    embedding_weight.scalar_type() == hidden.scalar_type() &&
                    hidden_weight.scalar_type() == hidden.scalar_type();
  if (!fits) {
    throw Error(ErrorCode::kInternal,
                "double_norm_concat: embeddings and hidden [...,h], weights [h], all of one type");
  }
}

at::Tensor wide(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

at::Tensor inverse_rms(const at::Tensor& wide_x, double eps) {
  return at::rsqrt(wide_x.square().mean(-1, true) + eps);
}

at::Tensor norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const auto wide_x = wide(x);
  return weight * (wide_x * inverse_rms(wide_x, eps)).to(x.scalar_type());
}

struct NormGradients {
  at::Tensor input, weight;
};

// y = w x̂, x̂ = x r: dx = r (w dy - x̂ mean(w dy x̂)), dw = Σ dy x̂.
NormGradients norm_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                            double eps) {
  const auto wide_x = wide(x), d_out = wide(grad);
  const auto r = inverse_rms(wide_x, eps);
  const auto unit = wide_x * r;
  const auto d_unit = d_out * wide(weight);
  const auto d_input = r * (d_unit - unit * (d_unit * unit).mean(-1, true));
  return {d_input, (d_out * unit).reshape({-1, x.size(-1)}).sum(0)};
}

at::Tensor forward_cpu(const at::Tensor& embeddings, const at::Tensor& hidden,
                       const at::Tensor& embedding_weight, const at::Tensor& hidden_weight,
                       double eps, bool twice) {
  check_inputs(embeddings, hidden, embedding_weight, hidden_weight);
  const auto inner = twice ? norm(hidden, embedding_weight, eps) : hidden;
  return at::cat({norm(embeddings, embedding_weight, eps), norm(inner, hidden_weight, eps)}, -1);
}

Gradients backward_cpu(const at::Tensor& grad, const at::Tensor& embeddings,
                       const at::Tensor& hidden, const at::Tensor& embedding_weight,
                       const at::Tensor& hidden_weight, double eps, bool twice,
                       bool need_embeddings) {
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
  return {need_embeddings ? of_embeddings.input.to(type) : at::empty({0}, hidden.options()),
          of_hidden.input.to(type), of_embeddings.weight.to(type), of_hidden.weight.to(type)};
}

cuda::DoubleNormShape device_shape(const at::Tensor& hidden, double eps, bool twice) {
  return {kernels::data_type(hidden.scalar_type(), "double_norm_concat"),
          hidden.numel() / hidden.size(-1), hidden.size(-1), eps, twice};
}

void check_status(int status) {
  if (status != 0) {
    throw Error(ErrorCode::kInternal,
                std::string("CUDA kernel double_norm_concat: ") + cuda::error_text(status));
  }
}

at::Tensor forward_cuda(const at::Tensor& embeddings, const at::Tensor& hidden,
                        const at::Tensor& embedding_weight, const at::Tensor& hidden_weight,
                        double eps, bool twice) {
  check_inputs(embeddings, hidden, embedding_weight, hidden_weight);
  const c10::DeviceGuard guard(hidden.device());
  const auto e = embeddings.contiguous(), g = hidden.contiguous();
  const auto w_e = embedding_weight.contiguous(), w_h = hidden_weight.contiguous();
  auto sizes = hidden.sizes().vec();
  sizes.back() *= 2;
  auto out = at::empty(sizes, hidden.options());
  check_status(cuda::forward(
      device_shape(g, eps, twice),
      {e.const_data_ptr(), g.const_data_ptr(), w_e.const_data_ptr(), w_h.const_data_ptr()},
      out.data_ptr(), kernels::current_stream(hidden.device())));
  return out;
}

Gradients backward_cuda(const at::Tensor& grad, const at::Tensor& embeddings,
                        const at::Tensor& hidden, const at::Tensor& embedding_weight,
                        const at::Tensor& hidden_weight, double eps, bool twice,
                        bool need_embeddings) {
  const c10::DeviceGuard guard(hidden.device());
  const auto e = embeddings.contiguous(), g = hidden.contiguous(), d_out = grad.contiguous();
  const auto w_e = embedding_weight.contiguous(), w_h = hidden_weight.contiguous();
  const auto shape = device_shape(g, eps, twice);
  auto d_e = need_embeddings ? at::empty_like(e) : at::empty({0}, e.options());
  auto d_g = at::empty_like(g), d_w_e = at::empty_like(w_e), d_w_h = at::empty_like(w_h);
  auto workspace = at::empty({static_cast<int64_t>(cuda::backward_workspace_bytes(shape))},
                             g.options().dtype(at::kByte));
  check_status(cuda::backward(
      shape, {e.const_data_ptr(), g.const_data_ptr(), w_e.const_data_ptr(), w_h.const_data_ptr()},
      d_out.const_data_ptr(),
      {need_embeddings ? d_e.data_ptr() : nullptr, d_g.data_ptr(), d_w_e.data_ptr(),
       d_w_h.data_ptr()},
      workspace.data_ptr(), kernels::current_stream(hidden.device())));
  return {d_e, d_g, d_w_e, d_w_h};
}

struct DoubleNormConcat : torch::autograd::Function<DoubleNormConcat> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& embeddings,
                            const at::Tensor& hidden, const at::Tensor& embedding_weight,
                            const at::Tensor& hidden_weight, double eps, bool twice) {
    ctx->save_for_backward({embeddings, hidden, embedding_weight, hidden_weight});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["twice"] = twice;
    ctx->saved_data["need_embeddings"] = embeddings.requires_grad();
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    static const auto op = find_operator<ForwardSignature>("outrider_eagle::double_norm_concat");
    return op.call(embeddings, hidden, embedding_weight, hidden_weight, eps, twice);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const bool need_embeddings = ctx->saved_data["need_embeddings"].toBool();
    static const auto op =
        find_operator<BackwardSignature>("outrider_eagle::double_norm_concat_backward");
    const auto [d_e, d_g, d_w_e, d_w_h] =
        op.call(grads[0], saved[0], saved[1], saved[2], saved[3], ctx->saved_data["eps"].toDouble(),
                ctx->saved_data["twice"].toBool(), need_embeddings);
    return {need_embeddings ? d_e : at::Tensor(), d_g, d_w_e, d_w_h, {}, {}};
  }
};

at::Tensor forward_autograd(const at::Tensor& embeddings, const at::Tensor& hidden,
                            const at::Tensor& embedding_weight, const at::Tensor& hidden_weight,
                            double eps, bool twice) {
  return DoubleNormConcat::apply(embeddings, hidden, embedding_weight, hidden_weight, eps, twice);
}

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

at::Tensor double_norm_concat(const at::Tensor& embeddings, const at::Tensor& hidden,
                              const at::Tensor& embedding_weight, const at::Tensor& hidden_weight,
                              double eps, bool twice) {
  static const auto op = find_operator<ForwardSignature>("outrider_eagle::double_norm_concat");
  return op.call(embeddings, hidden, embedding_weight, hidden_weight, eps, twice);
}

void register_double_norm_concat() {
  auto& definitions = define_operator_namespace(kNamespace);
  definitions.def(kForward);
  definitions.def(kBackward);
  auto& cpu = implement_operators(kNamespace, c10::DispatchKey::CPU);
  cpu.impl("double_norm_concat", forward_cpu);
  cpu.impl("double_norm_concat_backward", backward_cpu);
  if (cuda::available()) {
    auto& device = implement_operators(kNamespace, c10::DispatchKey::CUDA);
    device.impl("double_norm_concat", forward_cuda);
    device.impl("double_norm_concat_backward", backward_cuda);
  }
  implement_operators(kNamespace, c10::DispatchKey::Autograd)
      .impl("double_norm_concat", forward_autograd);
  add_operator_spec({.name = "outrider_eagle::double_norm_concat", .sample_inputs = sample_inputs});
}

}  // namespace outrider::eagle
