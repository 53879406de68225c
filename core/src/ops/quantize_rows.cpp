#include "outrider/ops/quantize_rows.h"

#include <ATen/ATen.h>

#include "kernels/cuda/quantize_rows.h"
#include "outrider/kernels/fp8.h"
#include "outrider/kernels/launch.h"

namespace outrider::ops {
namespace {

QuantizedRows on_cuda(const at::Tensor& x) {
  if (cuda::quantize_rows == nullptr) kernels::throw_no_kernel("quantize_rows");
  const kernels::Launch launch("quantize_rows", x);
  const auto in = x.contiguous();
  QuantizedRows rows{at::empty(in.sizes(), in.options().dtype(at::kFloat8_e4m3fn)),
                     at::empty({in.size(0), 1}, in.options().dtype(at::kFloat))};
  launch.check(cuda::quantize_rows(launch.type(), in.size(0), in.size(1), in.const_data_ptr(),
                                   rows.values.data_ptr(), rows.scales.mutable_data_ptr<float>(),
                                   launch.stream()));
  return rows;
}

QuantizedRows composed(const at::Tensor& x) {
  const auto wide = x.to(at::kFloat);
  const auto largest = wide.abs().amax(1, /*keepdim=*/true).clamp_min(kernels::kLeastMagnitude);
  return {(wide * (kernels::kLargestE4m3 / largest)).to(at::kFloat8_e4m3fn),
          largest / kernels::kLargestE4m3};
}

}  // namespace

QuantizedRows quantize_rows(const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  return x.is_cuda() ? on_cuda(x) : composed(x);
}

}  // namespace outrider::ops
