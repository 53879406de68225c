#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "device.h"
#include "outrider/ops/adamw.h"
#include "trainer/optimizer.h"

namespace outrider::testing::adamw_tests {
namespace {

// Of `size` values from the `offset`-th of a larger tensor, which may begin anywhere.
at::Tensor part(int64_t size, int64_t offset, at::ScalarType type, double deviation = 1.0) {
  return (at::randn({size + offset + 3}) * deviation).to(type).narrow(0, offset, size);
}

ops::AdamWTensors tensors_of(int64_t size, int64_t offset, at::ScalarType type, bool is_wide) {
  const auto parameter = part(size, offset, type);
  const auto master =
      type == at::kFloat ? parameter : parameter.to(at::kFloat) + part(size, 0, at::kFloat, 1e-4);
  return {.parameter = parameter,
          .master = master,
          .gradient = part(size, offset, is_wide ? at::kFloat : type),
          .exp_avg = part(size, offset, at::kFloat),
          .exp_avg_sq = part(size, offset, at::kFloat).square_().add_(0.1),
          .step = at::full({}, 3.0f)};
}

// With the same offsets into storages of their own.
ops::AdamWTensors moved(const ops::AdamWTensors& from) {
  const auto move = [](const at::Tensor& x) {
    auto whole = at::empty({x.numel() + x.storage_offset()}, x.options().device(at::kCUDA));
    return whole.narrow(0, x.storage_offset(), x.numel()).copy_(x);
  };
  auto to = from;
  to.parameter = move(from.parameter);
  to.master = from.master.is_alias_of(from.parameter) ? to.parameter : move(from.master);
  to.gradient = move(from.gradient);
  to.exp_avg = move(from.exp_avg);
  to.exp_avg_sq = move(from.exp_avg_sq);
  to.step = from.step.to(at::kCUDA);
  return to;
}

void check_update(const ops::AdamWTensors& tensors, const at::Tensor& scale) {
  const AdamWCoefficients coefficients{0.01, 0.9, 0.999, 1e-8, 0.1};
  const auto device = moved(tensors);
  auto host = tensors;
  host.gradient = host.gradient.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  ops::adamw_({device}, scale.defined() ? scale.to(at::kCUDA) : scale, coefficients);
  ops::adamw_({host}, scale, coefficients);
  CHECK(at::allclose(device.master.cpu(), host.master, 1e-5, 1e-6));
  CHECK(at::allclose(device.exp_avg.cpu(), host.exp_avg, 1e-5, 1e-6));
  CHECK(at::allclose(device.exp_avg_sq.cpu(), host.exp_avg_sq, 1e-5, 1e-6));
  CHECK(device.step.item<float>() == 4.0f);
  // The parameter is its master, rounded.
  CHECK(at::equal(device.parameter, device.master.to(device.parameter.scalar_type())));
}

}  // namespace

TEST_CASE("adamw on the device: the cpu's, of every type and size, wherever tensors begin") {
  at::manual_seed(17);
  for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const int64_t size : {0, 1, 7, 8, 2048, 4097, 100000}) {
      for (const int64_t offset : {0, 1, 4}) {
        for (const bool is_wide : {false, true}) {
          for (const bool is_scaled : {false, true}) {
            CAPTURE(fmt::format("{} {} from {}, wide {}, scaled {}", c10::toString(type), size,
                                offset, is_wide, is_scaled));
            check_update(tensors_of(size, offset, type, is_wide),
                         is_scaled ? at::full({}, 0.3f) : at::Tensor());
          }
        }
      }
    }
  }
}

TEST_CASE("an optimizer's steps on the device are those on the cpu, clipped and added up") {
  at::manual_seed(18);
  const auto matrix = at::randn({64, 48}).to(at::kBFloat16), vector = at::randn({48});
  std::vector<AdamW::Parameter> host{{"matrix", matrix.clone()}, {"vector", vector.clone()}};
  std::vector<AdamW::Parameter> device;
  for (const auto& p : host) device.push_back({p.name, p.tensor.to(at::kCUDA)});
  const AdamWOptions options{.weight_decay = 0.1, .max_grad_norm = 1.0};
  AdamW on_host(host, options), on_device(device, options);
  for (int step = 0; step < 6; ++step) {
    for (int pass = 0; pass <= step % 2; ++pass) {  // one backward pass, then two
      for (size_t i = 0; i < host.size(); ++i) {
        const auto gradient = at::randn_like(host[i].tensor);
        host[i].tensor.mutable_grad() = gradient;
        device[i].tensor.mutable_grad() = gradient.to(at::kCUDA);
      }
      on_host.collect_gradients();
      on_device.collect_gradients();
    }
    const auto expected = on_host.step(1e-2), actual = on_device.step(1e-2);
    CHECK(actual.item<float>() == doctest::Approx(expected.item<float>()).epsilon(1e-5));
  }
  const auto expected = on_host.state(), actual = on_device.state();
  for (const auto& [name, tensor] : expected) {
    CAPTURE(name);
    CHECK(at::allclose(actual.at(name).cpu(), tensor, 1e-4, 1e-6));
  }
}

}  // namespace outrider::testing::adamw_tests
