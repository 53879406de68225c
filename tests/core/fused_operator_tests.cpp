#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "gradcheck.h"
#include "outrider/kernels/launch.h"
#include "outrider/ops/fused_operator.h"
#include "outrider/ops/input_checks.h"

namespace outrider::testing::fused_operator_tests {
namespace {

using at::Tensor;

// What backward() was given last.
struct Seen {
  bool is_shape_alone;
  std::vector<int64_t> sizes;
  Wanted<3> wanted;
};
std::optional<Seen> seen;

// x · factor + y, row by row scaled with w; needs neither x's nor y's values for y's gradient.
struct ScaledSum {
  static constexpr char kName[] = "outrider_fused_tests::scaled_sum";
  static constexpr char kArguments[] =
      "(Tensor x, float factor, Tensor y, bool negate, Tensor w) -> Tensor";
  static constexpr std::array kKept = {true, false, true};

  static void check(const Tensor& x, double, const Tensor& y, bool, const Tensor& w) {
    require_rows("scaled_sum", {{"x", x}, {"y", y}}, {{"w", w}});
  }

  struct Composed {
    static Tensor forward(const Tensor& x, double factor, const Tensor& y, bool negate,
                          const Tensor& w) {
      return (x * factor * w + y) * (negate ? -1 : 1);
    }
    static Gradients<3> backward(const Tensor& grad, const Tensor& x, double factor,
                                 const Tensor& y, bool negate, const Tensor& w, Wanted<3> wanted) {
      seen = Seen{y.is_meta(), y.sizes().vec(), wanted};
      const auto d = grad * (negate ? -1 : 1);
      return {d * factor * w, d, (d * factor * x).reshape({-1, w.size(0)}).sum(0)};
    }
  };

  struct Cuda : Composed {
    static bool is_built() { return false; }
  };
};

// No kernels: the formula alone.
struct Halved {
  static constexpr char kName[] = "outrider_fused_tests::halved";
  static constexpr char kArguments[] = "(Tensor x) -> Tensor";
  static void check(const Tensor&) {}
  struct Composed {
    static Tensor forward(const Tensor& x) { return x / 2; }
    static Gradients<1> backward(const Tensor& grad, const Tensor&, Wanted<1>) {
      return {grad / 2};
    }
  };
};

Tensor scaled_sum(const Tensor& x, double factor, const Tensor& y, bool negate, const Tensor& w) {
  return FusedOperator<ScaledSum>::call(x, factor, y, negate, w);
}

void register_once() {
  static const bool registered = [] {
    FusedOperator<ScaledSum>::add(
        {.sample_inputs = [](at::ScalarType) { return std::vector<OperatorInputs>{}; }});
    FusedOperator<Halved>::add(
        {.sample_inputs = [](at::ScalarType) { return std::vector<OperatorInputs>{}; }});
    return true;
  }();
  REQUIRE(registered);
}

}  // namespace

TEST_CASE("a fused operator's gradients are those of its backward, argument by argument") {
  register_once();
  for (const bool negate : {false, true}) {
    check_gradients([&](const auto& in) { return scaled_sum(in[0], 1.7, in[1], negate, in[2]); },
                    {random({2, 3, 4}, 1), random({2, 3, 4}, 2), random({4}, 3)});
  }
  check_gradients([](const auto& in) { return FusedOperator<Halved>::call(in[0]); },
                  {random({5}, 1)});
}

TEST_CASE("backward gets the values that it reads, of others the shape, and what is wanted") {
  register_once();
  const auto x = random({3, 4}, 1).requires_grad_(), y = random({3, 4}, 2);
  const auto w = random({4}, 3).requires_grad_();
  scaled_sum(x, 2.0, y, false, w).sum().backward();
  REQUIRE(seen);
  CHECK(seen->is_shape_alone);
  CHECK(seen->sizes == std::vector<int64_t>{3, 4});
  CHECK(seen->wanted == Wanted<3>{true, false, true});
  CHECK_FALSE(y.grad().defined());
  CHECK_CLOSE(w.grad(), (2.0 * x.detach()).sum(0), 1e-14);
}

TEST_CASE("an operator of two is found by its name, and both live in one namespace") {
  register_once();
  const auto& specs = operator_specs();
  for (const char* name : {"outrider_fused_tests::scaled_sum", "outrider_fused_tests::halved"}) {
    CHECK(std::ranges::count(specs, name, &OperatorSpec::name) == 1);
  }
}

TEST_CASE("without kernels a device is refused, unless the formula serves it") {
  register_once();
  const auto call_on_cuda = [](const char* name, std::vector<c10::IValue> stack) {
    c10::Dispatcher::singleton().findSchemaOrThrow(name, "").redispatchBoxed(
        c10::DispatchKeySet(c10::DispatchKey::CUDA), &stack);
    return stack.at(0).toTensor();
  };
  const auto message = failure(ErrorCode::kDeviceUnavailable, [&] {
    call_on_cuda("outrider_fused_tests::scaled_sum",
                 {random({2, 4}, 1), 1.0, random({2, 4}, 2), false, random({4}, 3)});
  });
  CHECK_CONTAINS(message, "outrider_fused_tests::scaled_sum: a tensor is on a CUDA device");
  const auto x = random({2}, 1);
  CHECK_CLOSE(call_on_cuda("outrider_fused_tests::halved", {x}), x / 2, 0.0);
}

TEST_CASE("inputs that are no rows of one shape, type and width are described") {
  register_once();
  const auto x = random({2, 4}, 1);
  const auto refusal = [&](const Tensor& y, const Tensor& w) {
    return failure(ErrorCode::kInternal, [&] { scaled_sum(x, 1.0, y, false, w); });
  };
  CHECK_CONTAINS(refusal(random({2, 5}, 2), random({4}, 3)),
                 "scaled_sum: takes x and y [...,h], w [h], all of one type and device; got x "
                 "Double [2,4] on cpu, y Double [2,5] on cpu, w Double [4] on cpu");
  CHECK_CONTAINS(refusal(x, random({3}, 3)), "w Double [3]");
  CHECK_CONTAINS(refusal(x, random({4}, 3, at::kFloat)), "w Float [4]");
  CHECK_CONTAINS(refusal(x.to(at::Device(at::kMeta)), random({4}, 3)), "y Double [2,4] on meta");
}

TEST_CASE("rows are counted, also where they are empty") {
  CHECK(kernels::rows_of(at::zeros({2, 3, 4})).count == 6);
  CHECK(kernels::rows_of(at::zeros({2, 3, 4})).width == 4);
  CHECK(kernels::rows_of(at::zeros({3, 0})).count == 0);
  CHECK(kernels::rows_of(at::zeros({0, 5})).count == 0);
}

TEST_CASE("core's operators are listed first, with samples that run and gradients that are right") {
  const auto& specs = operator_specs();
  const std::vector<std::string> own = {
      "outrider::causal_attention", "outrider::prefix_diagonal_attention",
      "outrider::label_cross_entropy", "outrider::teacher_cross_entropy"};
  REQUIRE(specs.size() >= own.size());
  for (size_t i = 0; i < own.size(); ++i) {
    CAPTURE(own[i]);
    CHECK(specs[i].name == own[i]);
    CHECK(is_core_operator(specs[i]));
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(own[i].c_str(), "");
    CHECK(specs[i].sample_inputs(at::kBFloat16).size() >= 6);
    for (auto stack : specs[i].sample_inputs(at::kFloat)) {
      op.callBoxed(stack);
      CHECK(stack.at(0).toTensor().isfinite().all().item<bool>());
    }
  }
  CHECK_FALSE(
      is_core_operator({.name = "outrider_eagle::double_norm_concat", .sample_inputs = {}}));
}

}  // namespace outrider::testing::fused_operator_tests
