#include "gather_concat.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <string>
#include <vector>

#include "gather_concat_cuda.h"
#include "outrider/error.h"
#include "outrider/kernels/current_stream.h"
#include "outrider/kernels/scalar_type.h"
#include "outrider/ops/find_operator.h"
#include "outrider/ops/operator_library.h"

namespace hydra {
namespace {

constexpr char kNamespace[] = "outrider_hydra";
constexpr char kForward[] =
    "gather_concat(Tensor state, Tensor embeddings, Tensor rows, int count) -> Tensor";
constexpr char kBackward[] =
    "gather_concat_backward(Tensor grad, Tensor rows, int positions, int count) -> "
    "(Tensor, Tensor)";

using Gradients = std::tuple<at::Tensor, at::Tensor>;
using ForwardSignature = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                    int64_t);
using BackwardSignature = Gradients(const at::Tensor&, const at::Tensor&, int64_t, int64_t);

void check_inputs(const at::Tensor& state, const at::Tensor& embeddings, const at::Tensor& rows,
                  int64_t count) {
  const bool fits = state.dim() == 2 && state.sizes() == embeddings.sizes() &&
                    state.scalar_type() == embeddings.scalar_type() && rows.dim() == 1 &&
                    rows.scalar_type() == at::kLong && count >= 0;
  if (!fits) {
    throw outrider::Error(outrider::ErrorCode::kInternal,
                          "gather_concat: state and embeddings [M,h] of one type, rows [N] int64, "
                          "count >= 0");
  }
}

at::Tensor forward_cpu(const at::Tensor& state, const at::Tensor& embeddings,
                       const at::Tensor& rows, int64_t count) {
  check_inputs(state, embeddings, rows, count);
  std::vector<at::Tensor> parts{state.index_select(0, rows)};
  for (int64_t k = 1; k <= count; ++k) parts.push_back(embeddings.index_select(0, rows + k));
  return at::cat(parts, 1);
}

Gradients backward_cpu(const at::Tensor& grad, const at::Tensor& rows, int64_t positions,
                       int64_t count) {
  const int64_t hidden = grad.size(1) / (count + 1);
  const auto type = grad.scalar_type();
  const auto wide = grad.to(type == at::kDouble ? at::kDouble : at::kFloat);
  const auto part = [&](int64_t k) { return wide.slice(1, k * hidden, (k + 1) * hidden); };
  auto d_state = at::zeros({positions, hidden}, wide.options()), d_embeddings = d_state.clone();
  d_state.index_copy_(0, rows, part(0));
  for (int64_t k = 1; k <= count; ++k) d_embeddings.index_add_(0, rows + k, part(k));
  return {d_state.to(type), d_embeddings.to(type)};
}

void check_status(int status) {
  if (status != 0) {
    throw outrider::Error(outrider::ErrorCode::kInternal,
                          std::string("CUDA kernel gather_concat: ") + cuda::error_text(status));
  }
}

cuda::GatherConcatShape device_shape(const at::Tensor& like, int64_t positions, int64_t hidden,
                                     const at::Tensor& rows, int64_t count) {
  return {outrider::kernels::data_type(like.scalar_type(), "gather_concat"), positions, hidden,
          rows.size(0), count};
}

at::Tensor forward_cuda(const at::Tensor& state, const at::Tensor& embeddings,
                        const at::Tensor& rows, int64_t count) {
  check_inputs(state, embeddings, rows, count);
  const c10::DeviceGuard guard(state.device());
  const auto s = state.contiguous(), e = embeddings.contiguous(), r = rows.contiguous();
  const auto shape = device_shape(s, s.size(0), s.size(1), r, count);
  auto out = at::empty({shape.rows, (count + 1) * shape.hidden}, s.options());
  check_status(cuda::forward(shape, s.const_data_ptr(), e.const_data_ptr(),
                             r.const_data_ptr<int64_t>(), out.data_ptr(),
                             outrider::kernels::current_stream(s.device())));
  return out;
}

Gradients backward_cuda(const at::Tensor& grad, const at::Tensor& rows, int64_t positions,
                        int64_t count) {
  const c10::DeviceGuard guard(grad.device());
  const auto d_out = grad.contiguous();
  const auto shape = device_shape(d_out, positions, d_out.size(1) / (count + 1), rows, count);
  const auto place = at::full({positions}, -1, rows.options())
                         .index_copy_(0, rows, at::arange(shape.rows, rows.options()));
  auto d_state = at::empty({positions, shape.hidden}, d_out.options());
  auto d_embeddings = at::empty_like(d_state);
  check_status(cuda::backward(shape, d_out.const_data_ptr(), place.const_data_ptr<int64_t>(),
                              d_state.data_ptr(), d_embeddings.data_ptr(),
                              outrider::kernels::current_stream(d_out.device())));
  return {d_state, d_embeddings};
}

struct GatherConcat : torch::autograd::Function<GatherConcat> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& state,
                            const at::Tensor& embeddings, const at::Tensor& rows, int64_t count) {
    ctx->save_for_backward({rows});
    ctx->saved_data["positions"] = state.size(0);
    ctx->saved_data["count"] = count;
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    static const auto op =
        outrider::find_operator<ForwardSignature>("outrider_hydra::gather_concat");
    return op.call(state, embeddings, rows, count);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    static const auto op =
        outrider::find_operator<BackwardSignature>("outrider_hydra::gather_concat_backward");
    const auto [d_state, d_embeddings] =
        op.call(grads[0], ctx->get_saved_variables()[0], ctx->saved_data["positions"].toInt(),
                ctx->saved_data["count"].toInt());
    return {d_state, d_embeddings, {}, {}};
  }
};

at::Tensor forward_autograd(const at::Tensor& state, const at::Tensor& embeddings,
                            const at::Tensor& rows, int64_t count) {
  return GatherConcat::apply(state, embeddings, rows, count);
}

// Rows with and without gaps, and widths that leave rows of the result unaligned.
std::vector<outrider::OperatorInputs> sample_inputs(at::ScalarType type) {
  struct Size {
    int64_t positions, hidden, count, stride;
  };
  std::vector<outrider::OperatorInputs> samples;
  for (const auto& [positions, hidden, count, stride] :
       {Size{7, 8, 1, 1}, Size{12, 5, 3, 2}, Size{40, 96, 4, 3}}) {
    const auto tensor = [&] { return at::randn({positions, hidden}, type); };
    samples.push_back(
        {tensor(), tensor(), at::arange(0, positions - count, stride, at::kLong), count});
  }
  return samples;
}

}  // namespace

at::Tensor gather_concat(const at::Tensor& state, const at::Tensor& embeddings,
                         const at::Tensor& rows, int64_t count) {
  static const auto op = outrider::find_operator<ForwardSignature>("outrider_hydra::gather_concat");
  return op.call(state, embeddings, rows, count);
}

void register_gather_concat() {
  auto& definitions = outrider::define_operator_namespace(kNamespace);
  definitions.def(kForward);
  definitions.def(kBackward);
  auto& cpu = outrider::implement_operators(kNamespace, c10::DispatchKey::CPU);
  cpu.impl("gather_concat", forward_cpu);
  cpu.impl("gather_concat_backward", backward_cpu);
  if (cuda::available()) {
    auto& device = outrider::implement_operators(kNamespace, c10::DispatchKey::CUDA);
    device.impl("gather_concat", forward_cuda);
    device.impl("gather_concat_backward", backward_cuda);
  }
  outrider::implement_operators(kNamespace, c10::DispatchKey::Autograd)
      .impl("gather_concat", forward_autograd);
  outrider::add_operator_spec(
      {.name = "outrider_hydra::gather_concat", .sample_inputs = sample_inputs});
}

}  // namespace hydra
