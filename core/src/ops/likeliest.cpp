#include "outrider/ops/likeliest.h"

#include <ATen/ATen.h>

#include "kernels/cuda/few_rows.h"
#include "outrider/kernels/launch.h"

namespace outrider::ops {
namespace {

bool has_choice_kernel(const at::Tensor& logits, const at::Tensor& vocabulary) {
  return cuda::few_rows_choice && logits.is_cuda() && logits.scalar_type() == at::kBFloat16 &&
         logits.is_contiguous() && logits.size(-1) > 0 &&
         (!vocabulary.defined() || vocabulary.is_contiguous());
}

}  // namespace

at::Tensor likeliest(const at::Tensor& logits, const at::Tensor& vocabulary) {
  if (!has_choice_kernel(logits, vocabulary)) {
    const auto ids = logits.argmax(-1);
    return vocabulary.defined() ? vocabulary.index({ids}) : ids;
  }
  auto sizes = logits.sizes().vec();
  sizes.pop_back();
  auto ids = at::empty(sizes, logits.options().dtype(at::kLong));
  const kernels::Launch launch("few_rows_choice", logits);
  launch.check(cuda::few_rows_choice(
      {.batch = ids.numel(),
       .vocabulary = logits.size(-1),
       .logits = logits.const_data_ptr(),
       .map = vocabulary.defined() ? vocabulary.const_data_ptr<int64_t>() : nullptr,
       .ids = ids.data_ptr<int64_t>()},
      launch.stream()));
  return ids;
}

}  // namespace outrider::ops
