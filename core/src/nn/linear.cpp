#include "outrider/nn/linear.h"

#include <ATen/ATen.h>

#include <cmath>

#include "outrider/ops/linear.h"

namespace outrider::nn {

LinearProduct::~LinearProduct() = default;

Linear::Linear(int64_t in, int64_t out, bool with_bias, at::TensorOptions options) {
  weight = register_parameter("weight", at::empty({out, in}, options));
  if (with_bias) bias = register_parameter("bias", at::empty({out}, options));
}

void Linear::reset_parameters() {
  const at::NoGradGuard no_grad;
  const double bound = 1.0 / std::sqrt(static_cast<double>(weight.size(1)));
  weight.uniform_(-bound, bound);
  if (bias.defined()) bias.uniform_(-bound, bound);
}

at::Tensor Linear::forward(const at::Tensor& x) const {
  if (product_) return product_->forward(x);
  return ops::linear(x, weight, bias);
}

void Linear::replace_product(std::shared_ptr<const LinearProduct> product) {
  product_ = std::move(product);
}

void Linear::release_weight() {
  weight.set_data(at::zeros({}, weight.options()).expand(weight.sizes()));
}

std::shared_ptr<Linear> initialized_linear(int64_t in, int64_t out, bool with_bias,
                                           at::TensorOptions options) {
  auto linear = std::make_shared<Linear>(in, out, with_bias, options);
  linear->reset_parameters();
  return linear;
}

}  // namespace outrider::nn
