#include <ATen/ATen.h>

#include <cmath>

#include "outrider/nn/fp8_product.h"
#include "outrider/ops/quantize_rows.h"
#include "tensor_checks.h"

namespace outrider::testing {
namespace {

at::Tensor restored(const ops::QuantizedRows& rows) {
  return rows.values.to(at::kDouble) * rows.scales.to(at::kDouble);
}

TEST_CASE(
    "a quantised row keeps its largest value, and of the others three bits behind the first") {
  auto x = random({5, 32}, 1, at::kFloat) * 30;
  x[3].zero_();
  const auto back = restored(ops::quantize_rows(x));
  for (int64_t r = 0; r < x.size(0); ++r) {
    const double largest = x[r].abs().max().item<double>();
    for (int64_t c = 0; c < x.size(1); ++c) {
      const double value = x[r][c].item<double>(), found = back[r][c].item<double>();
      // Half a step of four significant bits, or of the smallest step that the scaled type has.
      const double step = std::max(std::abs(value) / 16, largest / 448 / 512);
      CHECK(std::abs(found - value) <= step * 1.001);
      if (std::abs(value) == largest) CHECK(found == doctest::Approx(value).epsilon(1e-6));
    }
  }
}

TEST_CASE("a product of eight-bit floats is that of the quantised numbers") {
  const auto weight = random({48, 32}, 2, at::kFloat), bias = random({48}, 3, at::kFloat);
  const auto x = random({2, 3, 32}, 4, at::kFloat);
  const nn::Fp8Product product(weight, bias, std::make_shared<nn::Fp8Input>());
  const auto y = product.forward(x);
  CHECK(y.sizes() == at::IntArrayRef{2, 3, 48});
  const auto rows = restored(ops::quantize_rows(x.flatten(0, 1)));
  const auto expected =
      at::matmul(rows, restored(ops::quantize_rows(weight)).t()) + bias.to(at::kDouble);
  CHECK_CLOSE(y.flatten(0, 1), expected, 1e-5);
  const auto exact = at::linear(x, weight, bias).flatten(0, 1).to(at::kDouble);
  const auto error = (expected - exact).norm() / exact.norm();
  CHECK(error.item<double>() > 1e-4);
  CHECK(error.item<double>() < 0.05);
}

TEST_CASE("layers that read the same rows share them quantised, and others are not mixed up") {
  const auto input = std::make_shared<nn::Fp8Input>();
  const auto weight = random({16, 16}, 5, at::kFloat);
  const nn::Fp8Product first(weight, {}, input), second(weight * 2, {}, input);
  const auto x = random({3, 16}, 6, at::kFloat), other = random({3, 16}, 7, at::kFloat);
  const auto y = first.forward(x);
  CHECK(&input->of(x) == &input->of(x));
  CHECK_CLOSE(second.forward(x), y * 2, 1e-5);
  CHECK(!at::allclose(first.forward(other), y));
  CHECK_CLOSE(first.forward(x), y, 0.0);
  CHECK(x.use_count() == 1);  // and they are not kept
}

TEST_CASE("a layer that is alone with its rows gives what one beside others does") {
  const auto weight = random({16, 16}, 5, at::kFloat), x = random({3, 16}, 6, at::kFloat);
  const nn::Fp8Product alone(weight, {}, nullptr);
  const nn::Fp8Product beside(weight, {}, std::make_shared<nn::Fp8Input>());
  CHECK_CLOSE(alone.forward(x), beside.forward(x), 0.0);
}

TEST_CASE("a released weight keeps its shape") {
  nn::Linear linear(32, 16, /*with_bias=*/false, at::kFloat);
  linear.release_weight();
  CHECK(linear.weight.sizes() == at::IntArrayRef{16, 32});
  CHECK(linear.weight.storage().nbytes() == sizeof(float));
}

}  // namespace
}  // namespace outrider::testing
