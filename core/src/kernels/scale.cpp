#include "kernels/scale.h"

#include <ATen/ATen.h>

#include "kernels/cuda/scale.h"
#include "outrider/kernels/launch.h"

namespace outrider::kernels {
namespace {

void launch_scale(const at::Tensor& values, const at::Tensor& factor) {
  if (cuda::scale == nullptr) throw_no_kernel("scale");
  const Launch launch("scale", values);
  launch.check(cuda::scale(launch.type(), values.data_ptr(), values.numel(),
                           factor.const_data_ptr(), launch.stream()));
}

}  // namespace

void scale_in_place(const at::Tensor& values, const at::Tensor& factor) {
  if (values.is_cuda()) return launch_scale(values, factor);
  const double by = factor.item<double>();
  if (by != 1.0) values.mul_(by);
}

}  // namespace outrider::kernels
