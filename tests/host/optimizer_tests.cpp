#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "tiny_training.h"
#include "trainer/optimizer.h"

namespace outrider {
namespace {

using testing::failure;

/// AdamW for one parameter, as its definition reads, in double.
struct PlainAdamW {
  std::vector<double> value, first, second;
  int64_t steps = 0;

  explicit PlainAdamW(std::vector<double> start)
      : value(std::move(start)), first(value.size()), second(value.size()) {}

  void step(const std::vector<double>& gradient, double lr, const AdamWOptions& o, double decay) {
    ++steps;
    for (size_t i = 0; i < value.size(); ++i) {
      value[i] -= lr * decay * value[i];
      first[i] = o.beta1 * first[i] + (1 - o.beta1) * gradient[i];
      second[i] = o.beta2 * second[i] + (1 - o.beta2) * gradient[i] * gradient[i];
      const double m = first[i] / (1 - std::pow(o.beta1, steps));
      const double v = second[i] / (1 - std::pow(o.beta2, steps));
      value[i] -= lr * m / (std::sqrt(v) + o.epsilon);
    }
  }
};

std::vector<double> values_of(const at::Tensor& tensor) {
  const auto flat = tensor.detach().to(at::kDouble).flatten().contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

void check_close(const at::Tensor& tensor, const std::vector<double>& expected, double tolerance) {
  const auto actual = values_of(tensor);
  REQUIRE(actual.size() == expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    CHECK(std::abs(actual[i] - expected[i]) <= tolerance * (1 + std::abs(expected[i])));
  }
}

at::Tensor parameter(std::vector<double> values, at::IntArrayRef shape, at::ScalarType dtype) {
  return at::tensor(values, at::kDouble).reshape(shape).to(dtype).requires_grad_(true);
}

at::Tensor gradient(int64_t step, const at::Tensor& like) {
  const auto ramp = at::arange(like.numel(), at::kFloat).reshape(like.sizes());
  return at::cos(ramp + static_cast<double>(step)).to(like.scalar_type());
}

TEST_CASE("adamw follows the plain loop, with decay on matrices only") {
  const AdamWOptions options{0.8, 0.95, 1e-6, 0.1, 0.0};
  const auto matrix = parameter({1, -2, 3, 0.5}, {2, 2}, at::kFloat);
  const auto vector = parameter({0.25, -1}, {2}, at::kFloat);
  AdamW optimizer({{"matrix", matrix}, {"vector", vector}}, options);
  PlainAdamW plain_matrix(values_of(matrix)), plain_vector(values_of(vector));
  for (int64_t step = 0; step < 6; ++step) {
    const double lr = 0.05 / (1.0 + static_cast<double>(step));
    matrix.mutable_grad() = gradient(step, matrix);
    vector.mutable_grad() = gradient(step + 9, vector);
    plain_matrix.step(values_of(matrix.grad()), lr, options, 0.1);
    plain_vector.step(values_of(vector.grad()), lr, options, 0.0);
    optimizer.collect_gradients();
    optimizer.step(lr);
    CHECK_FALSE(matrix.grad().defined());
  }
  check_close(matrix, plain_matrix.value, 2e-6);
  check_close(vector, plain_vector.value, 2e-6);
}

TEST_CASE("adamw keeps float32 masters of bfloat16 parameters") {
  const AdamWOptions options;
  const auto low = parameter({1, -2, 3, 0.5}, {2, 2}, at::kBFloat16);
  AdamW optimizer({{"low", low}}, options);
  PlainAdamW plain(values_of(low));
  for (int64_t step = 0; step < 50; ++step) {
    low.mutable_grad() = gradient(step / 25, low);
    plain.step(values_of(low.grad()), 1e-4, options, 0.0);
    optimizer.collect_gradients();
    optimizer.step(1e-4);
  }
  const auto master = optimizer.state().at("master.low");
  CHECK((master.scalar_type() == at::kFloat));
  check_close(master, plain.value, 1e-6);
  CHECK(at::equal(low.detach(), master.to(at::kBFloat16)));
  // 1e-4 steps vanish in bfloat16's 8 bits unless a master collects them.
  CHECK(values_of(low)[0] != 1.0);
}

TEST_CASE("adamw adds up gradients of low precision in float32 and skips parameters without one") {
  const auto low = parameter({1, 1}, {2}, at::kBFloat16);
  const auto idle = parameter({7}, {1}, at::kFloat);
  AdamW optimizer({{"low", low}, {"idle", idle}}, {0.0, 0.0, 1.0, 0.5, 0.0});
  for (const double part : {256.0, 1.0, 1.0}) {
    low.mutable_grad() = at::full({2}, part, at::kBFloat16);
    optimizer.collect_gradients();
  }
  // In bfloat16, 256 + 1 is 256.
  CHECK(optimizer.step(0.0).item<float>() == doctest::Approx(258.0 * std::sqrt(2.0)));
  CHECK(optimizer.state().at("exp_avg.low")[0].item<float>() == 258.0f);
  CHECK(idle.item<float>() == 7.0f);
  CHECK(optimizer.state().at("step.idle").item<float>() == 0.0f);
}

TEST_CASE("adamw clips by the total norm and reports it unclipped") {
  const auto a = parameter({0, 0}, {2}, at::kFloat), b = parameter({0}, {1}, at::kFloat);
  AdamW optimizer({{"a", a}, {"b", b}}, {0.0, 0.0, 1.0, 0.0, 6.5});
  a.mutable_grad() = at::tensor({3.0f, 4.0f});
  b.mutable_grad() = at::tensor({12.0f});
  optimizer.collect_gradients();
  CHECK(optimizer.step(1.0).item<float>() == doctest::Approx(13.0));
  check_close(optimizer.state().at("exp_avg.a"), {1.5, 2.0}, 1e-6);
  check_close(optimizer.state().at("exp_avg.b"), {6.0}, 1e-6);
  a.mutable_grad() = at::tensor({0.3f, 0.4f});
  optimizer.collect_gradients();
  optimizer.step(1.0);
  check_close(optimizer.state().at("exp_avg.a"), {0.3, 0.4}, 1e-6);
}

TEST_CASE("adamw refuses a state of other parameters, naming every problem") {
  const auto a = parameter({0, 0}, {2}, at::kFloat);
  AdamW optimizer({{"a", a}}, {});
  auto state = optimizer.state();
  state.erase("exp_avg.a");
  state["exp_avg_sq.a"] = at::zeros({3});
  const auto text =
      failure(ErrorCode::kIncompatibleCheckpoint, [&] { optimizer.load_state(state); });
  CHECK_CONTAINS(text, "exp_avg.a is missing");
  CHECK_CONTAINS(text, "exp_avg_sq.a has shape [3], expected [2]");
}

}  // namespace
}  // namespace outrider
