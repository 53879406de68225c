#include "gather_concat.h"

#include <ATen/ATen.h>

#include <vector>

#include "gather_concat_cuda.h"
#include "outrider/kernels/accumulation.h"
#include "outrider/kernels/launch.h"
#include "outrider/ops/fused_operator.h"
#include "outrider/ops/input_checks.h"

namespace hydra {
namespace {

using at::Tensor;
using outrider::Gradients;
using outrider::OperatorInputs;
using outrider::Wanted;
using outrider::kernels::Launch;

struct GatherConcat {
  static constexpr char kName[] = "outrider_hydra::gather_concat";
  static constexpr char kArguments[] =
      "(Tensor state, Tensor embeddings, Tensor rows, int count) -> Tensor";
  static constexpr std::array kKept = {false, false, true};

  static void check(const Tensor& state, const Tensor& embeddings, const Tensor& rows,
                    int64_t count) {
    const bool fits = outrider::are_alike({{"state", state}, {"embeddings", embeddings}}) &&
                      state.dim() == 2 && state.sizes() == embeddings.sizes() && rows.dim() == 1 &&
                      rows.scalar_type() == at::kLong && rows.device() == state.device() &&
                      count >= 0;
    outrider::require_inputs(fits, "gather_concat",
                             "state and embeddings [M,h] of one type, rows [N] int64, count >= 0",
                             {{"state", state}, {"embeddings", embeddings}, {"rows", rows}});
  }

  struct Composed {
    static Tensor forward(const Tensor& state, const Tensor& embeddings, const Tensor& rows,
                          int64_t count) {
      std::vector<Tensor> parts{state.index_select(0, rows)};
      for (int64_t k = 1; k <= count; ++k) parts.push_back(embeddings.index_select(0, rows + k));
      return at::cat(parts, 1);
    }

    static Gradients<3> backward(const Tensor& grad, const Tensor& state, const Tensor&,
                                 const Tensor& rows, int64_t count, Wanted<3>) {
      const int64_t hidden = state.size(1);
      const auto wide = outrider::widened(grad);
      const auto part = [&](int64_t k) { return wide.slice(1, k * hidden, (k + 1) * hidden); };
      auto d_state = at::zeros(state.sizes(), wide.options()), d_embeddings = d_state.clone();
      d_state.index_copy_(0, rows, part(0));
      for (int64_t k = 1; k <= count; ++k) d_embeddings.index_add_(0, rows + k, part(k));
      return {d_state.to(grad.scalar_type()), d_embeddings.to(grad.scalar_type()), {}};
    }
  };

  struct Cuda {
    static bool is_built() { return cuda::forward != nullptr; }

    static cuda::GatherConcatShape shape_of(const Launch& launch, const Tensor& state,
                                            const Tensor& rows, int64_t count) {
      return {launch.type(), state.size(0), state.size(1), rows.size(0), count};
    }

    static Tensor forward(const Tensor& state, const Tensor& embeddings, const Tensor& rows,
                          int64_t count) {
      const Launch launch("gather_concat", state);
      const auto s = state.contiguous(), e = embeddings.contiguous(), r = rows.contiguous();
      const auto shape = shape_of(launch, s, r, count);
      auto out = at::empty({shape.rows, (count + 1) * shape.hidden}, s.options());
      launch.check(cuda::forward(shape, s.const_data_ptr(), e.const_data_ptr(),
                                 r.const_data_ptr<int64_t>(), out.data_ptr(), launch.stream()));
      return out;
    }

    static Gradients<3> backward(const Tensor& grad, const Tensor& state, const Tensor&,
                                 const Tensor& rows, int64_t count, Wanted<3>) {
      const Launch launch("gather_concat_backward", grad);
      const auto d_out = grad.contiguous();
      const auto shape = shape_of(launch, state, rows, count);
      const auto place = at::full({shape.positions}, -1, rows.options())
                             .index_copy_(0, rows, at::arange(shape.rows, rows.options()));
      auto d_state = at::empty(state.sizes(), d_out.options());
      auto d_embeddings = at::empty_like(d_state);
      launch.check(cuda::backward(shape, d_out.const_data_ptr(), place.const_data_ptr<int64_t>(),
                                  d_state.data_ptr(), d_embeddings.data_ptr(), launch.stream()));
      return {d_state, d_embeddings, {}};
    }
  };
};

// Rows with and without gaps, and widths that leave rows of the result unaligned.
std::vector<OperatorInputs> sample_inputs(at::ScalarType type) {
  struct Size {
    int64_t positions, hidden, count, stride;
  };
  std::vector<OperatorInputs> samples;
  for (const auto& [positions, hidden, count, stride] :
       {Size{7, 8, 1, 1}, Size{12, 5, 3, 2}, Size{40, 96, 4, 3}}) {
    const auto tensor = [&] { return at::randn({positions, hidden}, type); };
    samples.push_back(
        {tensor(), tensor(), at::arange(0, positions - count, stride, at::kLong), count});
  }
  return samples;
}

}  // namespace

Tensor gather_concat(const Tensor& state, const Tensor& embeddings, const Tensor& rows,
                     int64_t count) {
  return outrider::FusedOperator<GatherConcat>::call(state, embeddings, rows, count);
}

void register_gather_concat() {
  outrider::FusedOperator<GatherConcat>::add({.sample_inputs = sample_inputs});
}

}  // namespace hydra
