#include "outrider/ops/linear.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "outrider/ops/few_rows.h"
#include "outrider/ops/product.h"

namespace outrider::ops {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto type = x.scalar_type();
  if (takes_few_rows(x, {{weight, bias}})) return few_rows_linear(x, {}, {weight, bias});
  if (bias.defined()) return at::linear(x, weight.to(type), bias.to(type));
  if (at::GradMode::is_enabled() || !x.is_cuda()) return at::linear(x, weight.to(type));
  auto sizes = x.sizes().vec();
  sizes.back() = weight.size(0);
  return product(x.reshape({-1, x.size(-1)}), weight.to(type).t()).view(sizes);
}

}  // namespace outrider::ops
