#include "outrider/ops/linear.h"

#include <ATen/ATen.h>

#include "outrider/ops/few_rows.h"

namespace outrider::ops {
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto type = x.scalar_type();
  if (takes_few_rows(x, {{weight, bias}})) return few_rows_linear(x, {}, {weight, bias});
  return bias.defined() ? at::linear(x, weight.to(type), bias.to(type))
                        : at::linear(x, weight.to(type));
}

}  // namespace outrider::ops
