#include <ATen/core/dispatch/Dispatcher.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "gradcheck.h"
#include "kernels/double_norm_concat.h"
#include "outrider/ops/operator_library.h"

namespace outrider::testing {
namespace {

constexpr double kEps = 0.1;

struct Inputs {
  at::Tensor embeddings, hidden, embedding_weight, hidden_weight;

  std::vector<at::Tensor> list() const {
    return {embeddings, hidden, embedding_weight, hidden_weight};
  }
};

Inputs inputs_of(at::ScalarType type = at::kDouble) {
  return {random({2, 3, 8}, 1, type), random({2, 3, 8}, 2, type), random({8}, 3, type),
          random({8}, 4, type)};
}

at::Tensor run(const std::vector<at::Tensor>& in, bool twice) {
  return eagle::double_norm_concat(in[0], in[1], in[2], in[3], kEps, twice);
}

double rounded(double value, at::ScalarType type) {
  return at::scalar_tensor(value, at::kDouble).to(type).item<double>();
}

// The quotient is rounded to the tensors' type, and so is its product with the weight.
std::vector<double> norm_row(const std::vector<double>& x, const at::Tensor& weight) {
  double squares = 0.0;
  for (const double value : x) squares += value * value;
  const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + kEps);
  std::vector<double> y;
  for (size_t i = 0; i < x.size(); ++i) {
    const double unit = rounded(x[i] * scale, weight.scalar_type());
    y.push_back(
        rounded(unit * weight[static_cast<int64_t>(i)].item<double>(), weight.scalar_type()));
  }
  return y;
}

std::vector<double> row_of(const at::Tensor& row) {
  const auto wide = row.to(at::kDouble).contiguous();
  return {wide.data_ptr<double>(), wide.data_ptr<double>() + wide.numel()};
}

at::Tensor by_loops(const Inputs& in, bool twice) {
  const auto e = in.embeddings.reshape({-1, 8}), g = in.hidden.reshape({-1, 8});
  auto out = at::empty({e.size(0), 16}, at::kDouble);
  for (int64_t r = 0; r < e.size(0); ++r) {
    auto inner = row_of(g[r]);
    if (twice) inner = norm_row(inner, in.embedding_weight);
    const auto left = norm_row(row_of(e[r]), in.embedding_weight);
    const auto right = norm_row(inner, in.hidden_weight);
    for (size_t c = 0; c < 8; ++c) {
      out[r][static_cast<int64_t>(c)] = left[c];
      out[r][static_cast<int64_t>(c) + 8] = right[c];
    }
  }
  return out.view({2, 3, 16});
}

TEST_CASE("the fused input of the first layer equals loops") {
  for (const bool twice : {false, true}) {
    CHECK_CLOSE(run(inputs_of().list(), twice), by_loops(inputs_of(), twice), 1e-14);
    const auto single = inputs_of(at::kFloat), half = inputs_of(at::kBFloat16);
    CHECK_CLOSE(run(single.list(), twice), by_loops(single, twice), 2e-6);
    CHECK((run(half.list(), twice).scalar_type() == at::kBFloat16));
    CHECK_CLOSE(run(half.list(), twice), by_loops(half, twice), 1e-14);
  }
  CHECK(largest_difference(by_loops(inputs_of(), true), by_loops(inputs_of(), false)) > 0.1);
}

TEST_CASE("the fused input's gradients equal finite differences") {
  for (const bool twice : {false, true}) {
    check_gradients([&](const auto& in) { return run(in, twice); }, inputs_of().list());
  }
}

TEST_CASE("embeddings without a gradient leave the others' as they are") {
  for (const bool twice : {false, true}) {
    auto all = inputs_of().list(), some = inputs_of().list();
    for (auto& input : all) input.requires_grad_();
    for (size_t i = 1; i < some.size(); ++i) some[i].requires_grad_();
    const auto grad = random({2, 3, 16}, 9);
    run(all, twice).backward(grad);
    run(some, twice).backward(grad);
    CHECK(all[0].grad().defined());
    CHECK_FALSE(some[0].grad().defined());
    for (size_t i = 1; i < some.size(); ++i) CHECK_CLOSE(some[i].grad(), all[i].grad(), 0.0);
  }
}

TEST_CASE("bfloat16 gradients stay near float64") {
  for (const bool twice : {false, true}) {
    auto half = inputs_of(at::kBFloat16).list();
    std::vector<at::Tensor> wide;
    for (auto& input : half) {
      wide.push_back(input.to(at::kDouble).requires_grad_());
      input.requires_grad_();
    }
    const auto grad = random({2, 3, 16}, 9, at::kBFloat16);
    const auto actual = torch::autograd::grad({run(half, twice)}, half, {grad});
    const auto exact = torch::autograd::grad({run(wide, twice)}, wide, {grad.to(at::kDouble)});
    for (size_t i = 0; i < exact.size(); ++i) {
      CHECK((actual[i].scalar_type() == at::kBFloat16));
      CHECK_CLOSE(actual[i], exact[i], 0.02 * (1.0 + exact[i].abs().max().item<double>()));
    }
  }
}

TEST_CASE("inputs of any layout are read by their values") {
  const auto in = inputs_of();
  const auto transposed = [](const at::Tensor& x) {
    return x.transpose(0, 1).contiguous().transpose(0, 1);
  };
  CHECK_CLOSE(
      run({transposed(in.embeddings), transposed(in.hidden), in.embedding_weight, in.hidden_weight},
          true),
      run(in.list(), true), 1e-15);
}

TEST_CASE("the operator is found in the dispatcher, and says its shape without values") {
  const auto op =
      c10::Dispatcher::singleton().findSchema({"outrider_eagle::double_norm_concat", ""});
  REQUIRE(op);
  const auto in = inputs_of();
  std::vector<c10::IValue> stack{in.embeddings,    in.hidden, in.embedding_weight,
                                 in.hidden_weight, kEps,      true};
  op->callBoxed(&stack);
  CHECK_CLOSE(stack.at(0).toTensor(), by_loops(in, true), 1e-14);
  std::vector<at::Tensor> shapes;
  for (const auto& tensor : in.list()) shapes.push_back(tensor.to(at::Device(at::kMeta)));
  const auto out = run(shapes, true);
  CHECK(out.is_meta());
  CHECK(out.sizes() == at::IntArrayRef({2, 3, 16}));
}

TEST_CASE("the operator's samples can be run as they are registered") {
  const auto& spec = operator_specs().back();
  CHECK(spec.name == "outrider_eagle::double_norm_concat");
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(spec.name.c_str(), "");
  const auto samples = spec.sample_inputs(at::kBFloat16);
  CHECK(samples.size() >= 4);
  for (auto stack : samples) {
    const auto sizes = stack[0].toTensor().sizes().vec();
    op.callBoxed(&stack);
    CHECK(stack[0].toTensor().size(-1) == 2 * sizes.back());
  }
}

TEST_CASE("inputs that do not fit are refused") {
  const auto in = inputs_of();
  const auto other_type = in.hidden.to(at::kFloat), narrow = in.hidden.slice(2, 0, 7);
  for (const auto& hidden : {other_type, narrow}) {
    CHECK_CONTAINS(
        failure(ErrorCode::kInternal,
                [&] {
                  run({in.embeddings, hidden, in.embedding_weight, in.hidden_weight}, false);
                }),
        "embeddings and hidden [...,h]");
  }
}

}  // namespace
}  // namespace outrider::testing
