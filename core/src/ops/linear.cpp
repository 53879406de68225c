#include "outrider/ops/linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "kernels/cpu/few_rows.h"
#include "kernels/cpu/instruction_set.h"
#include "outrider/ops/few_rows.h"

namespace outrider::ops {
namespace {

using kernels::cpu::FewRows;
using kernels::cpu::FewRowsKernels;
using kernels::cpu::InstructionSet;

// Beyond, a product is limited by arithmetic, which LibTorch's is better at.
constexpr int64_t kMostRows = 16;
// Multiplications that are worth a thread.
constexpr int64_t kWorkOfThread = 1 << 15;

const FewRowsKernels& few_rows_kernels() {
  static const FewRowsKernels& best = [&]() -> const FewRowsKernels& {
    switch (kernels::cpu::best_instruction_set()) {
#if defined(__x86_64__)
      case InstructionSet::kAvx512:
        return kernels::cpu::few_rows_avx512();
      case InstructionSet::kAvx2:
        return kernels::cpu::few_rows_avx2();
#endif
      default:
        return kernels::cpu::few_rows_baseline();
    }
  }();
  return best;
}

bool is_float_or_bfloat16(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
}

bool is_few_rows(const at::Tensor& x, const at::Tensor& weight) {
  return x.is_cpu() && weight.is_cpu() && c10::InferenceMode::is_enabled() &&
         is_float_or_bfloat16(x) && is_float_or_bfloat16(weight) && weight.dim() == 2 &&
         weight.is_contiguous() && x.dim() > 0 && x.size(-1) == weight.size(1) &&
         weight.size(1) > 0 && x.numel() <= kMostRows * weight.size(1);
}

at::Tensor few_rows_product(const at::Tensor& x, const at::Tensor& weight) {
  const auto rows = x.to(at::kFloat).contiguous();
  auto sizes = x.sizes().vec();
  sizes.back() = weight.size(0);
  auto y = at::empty(sizes, rows.options());
  const FewRows product{
      rows.const_data_ptr<float>(), weight.const_data_ptr(), y.mutable_data_ptr<float>(),
      x.numel() / weight.size(1),   weight.size(1),          weight.size(0)};
  const auto kernel = weight.scalar_type() == at::kFloat ? few_rows_kernels().of_float
                                                         : few_rows_kernels().of_bfloat16;
  const int64_t grain = std::max<int64_t>(1, kWorkOfThread / (product.inner * product.rows + 1));
  at::parallel_for(0, product.outputs, grain,
                   [&](int64_t begin, int64_t end) { kernel(product, begin, end); });
  return y;
}

at::Tensor few_rows_on_device(const at::Tensor& x, const at::Tensor& weight,
                              const at::Tensor& bias) {
  auto sizes = x.sizes().vec();
  sizes.back() = weight.size(0);
  auto y = at::empty(sizes, x.options());
  few_rows_product(x, {}, {{weight, bias}}, Joined::kSideBySide, {}, y);
  return y;
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto type = x.scalar_type();
  if (x.is_cuda() && takes_few_rows(x, {{weight, bias}}))
    return few_rows_on_device(x, weight, bias);
  if (is_few_rows(x, weight)) {
    auto y = few_rows_product(x, weight);
    if (bias.defined()) y.add_(bias);
    return y.to(type);
  }
  return bias.defined() ? at::linear(x, weight.to(type), bias.to(type))
                        : at::linear(x, weight.to(type));
}

}  // namespace outrider::ops
