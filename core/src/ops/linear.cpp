#include "outrider/ops/linear.h"

#include <ATen/ATen.h>

#include "outrider/ops/few_rows.h"

namespace outrider::ops {
namespace {

at::Tensor few_rows(const at::Tensor& x, const LinearParameters& layer) {
  auto sizes = x.sizes().vec();
  sizes.back() = layer.weight.size(0);
  auto y = at::empty(sizes, x.options());
  few_rows_product(x, {}, {layer}, Joined::kSideBySide, {}, y);
  return y;
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto type = x.scalar_type();
  if (takes_few_rows(x, {{weight, bias}})) return few_rows(x, {weight, bias});
  return bias.defined() ? at::linear(x, weight.to(type), bias.to(type))
                        : at::linear(x, weight.to(type));
}

}  // namespace outrider::ops
