#include "outrider/nn/fp8_product.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <utility>

#include "outrider/error.h"

namespace outrider::nn {
namespace {

constexpr int64_t kMultiple = 16;

at::Tensor widened_product(const ops::QuantizedRows& x, const ops::QuantizedRows& weight) {
  return at::linear(x.values.to(at::kFloat) * x.scales,
                    weight.values.to(at::kFloat) * weight.scales);
}

at::Tensor device_product(const ops::QuantizedRows& x, const ops::QuantizedRows& weight) {
  try {
    return at::_scaled_mm(x.values, weight.values.t(), x.scales, weight.scales.t(), /*bias=*/{},
                          /*scale_result=*/{}, at::kBFloat16, /*use_fast_accum=*/true);
  } catch (const c10::Error& e) {
    throw Error(
        ErrorCode::kUnsupported,
        std::string("this GPU does not multiply eight-bit floats: ") + e.what_without_backtrace(),
        "train without --base-precision fp8");
  }
}

}  // namespace

const ops::QuantizedRows& Fp8Input::of(const at::Tensor& rows) {
  if (!made_last_of(rows)) {
    quantized_ = ops::quantize_rows(rows.flatten(0, -2));
    last_.emplace(rows.getIntrusivePtr());
  }
  return quantized_;
}

bool Fp8Input::made_last_of(const at::Tensor& rows) const {
  return last_ && last_->lock().get() == rows.unsafeGetTensorImpl();
}

Fp8Product::Fp8Product(const at::Tensor& weight, at::Tensor bias, std::shared_ptr<Fp8Input> input)
    : bias_(std::move(bias)), input_(std::move(input)) {
  const bool is_whole = weight.size(0) % kMultiple == 0 && weight.size(1) % kMultiple == 0;
  if (weight.is_cuda() && !is_whole) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("a layer of {} × {} cannot be one of eight-bit floats: both sizes must "
                            "be multiples of {}",
                            weight.size(0), weight.size(1), kMultiple),
                "train without --base-precision fp8");
  }
  weight_ = ops::quantize_rows(weight.detach());
}

at::Tensor Fp8Product::forward(const at::Tensor& x) const {
  const auto rows = input_ ? input_->of(x) : ops::quantize_rows(x.flatten(0, -2));
  auto y = x.is_cuda() ? device_product(rows, weight_) : widened_product(rows, weight_);
  y = y.to(x.scalar_type());
  if (bias_.defined()) y = y + bias_;
  auto sizes = x.sizes().vec();
  sizes.back() = weight_.values.size(0);
  return y.view(sizes);
}

}  // namespace outrider::nn
