#include "outrider/nn/linear.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "outrider/ops/linear.h"
#include "outrider/ops/product.h"

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

bool Linear::adds_in_place(const at::Tensor& residual, const at::Tensor& x) const {
  return residual.is_cuda() && !at::GradMode::is_enabled() && residual.is_contiguous() &&
         is_plain_for(residual) && is_plain_for(x) && !bias.defined();
}

at::Tensor Linear::add_to(const at::Tensor& residual, const at::Tensor& x) const {
  if (!adds_in_place(residual, x)) return residual + forward(x);
  ops::add_product(residual.flatten(0, -2), x.flatten(0, -2), weight.t());
  return residual;
}

bool Linear::is_plain_for(const ops::LinearInput& x) const {
  return !product_ && std::ranges::all_of(x.sources(), [&](const at::Tensor& source) {
    return source.scalar_type() == weight.scalar_type();
  });
}

std::optional<ops::LinearParameters> Linear::plain_parameters() const {
  if (product_) return std::nullopt;
  return ops::LinearParameters{weight, bias};
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

std::optional<std::vector<ops::LinearParameters>> plain_parameters(
    const std::vector<const Linear*>& layers) {
  std::vector<ops::LinearParameters> all;
  for (const auto* layer : layers) {
    const auto own = layer->plain_parameters();
    if (!own) return std::nullopt;
    all.push_back(*own);
  }
  return all;
}

std::vector<at::Tensor> outputs_of(const std::vector<const Linear*>& layers,
                                   const ops::LinearInput& x) {
  const bool are_plain =
      std::ranges::all_of(layers, [&](const Linear* layer) { return layer->is_plain_for(x); });
  std::vector<at::Tensor> outputs;
  if (x.is_made() && are_plain && at::GradMode::is_enabled()) {
    std::vector<ops::LinearParameters> parameters;
    for (const auto* layer : layers) parameters.push_back({layer->weight, layer->bias});
    return ops::linear_outputs(x, parameters);
  }
  const auto input = x.tensor();
  for (const auto* layer : layers) outputs.push_back(layer->forward(input));
  return outputs;
}

}  // namespace outrider::nn
