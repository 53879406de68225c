#include <torch/csrc/autograd/autograd.h>

#include "gather_concat.h"
#include "outrider/error.h"
#include "outrider/sdk/gradient_check.h"
#include "support.h"

namespace hydra::testing {
namespace {

at::Tensor by_loops(const at::Tensor& state, const at::Tensor& embeddings, const at::Tensor& rows,
                    int64_t count) {
  const int64_t hidden = state.size(1);
  auto out = at::empty({rows.size(0), (count + 1) * hidden}, state.options());
  for (int64_t n = 0; n < rows.size(0); ++n) {
    for (int64_t k = 0; k <= count; ++k) {
      const auto& from = k == 0 ? state : embeddings;
      for (int64_t c = 0; c < hidden; ++c) {
        out[n][k * hidden + c] = from[rows[n].item<int64_t>() + k][c];
      }
    }
  }
  return out;
}

TEST_CASE("gather_concat copies what loops copy, in every type") {
  const auto rows = at::tensor({0, 2, 3, 5}, at::kLong);
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    const auto state = random({8, 5}, 1, type), embeddings = random({8, 5}, 2, type);
    for (const int64_t count : {0, 1, 2}) {
      const auto out = gather_concat(state, embeddings, rows, count);
      CHECK((out.scalar_type() == type));
      CHECK(largest_difference(out, by_loops(state, embeddings, rows, count)) == 0.0);
    }
  }
  CHECK(gather_concat(at::zeros({4, 5}), at::zeros({4, 5}), rows.slice(0, 0, 0), 2).sizes() ==
        at::IntArrayRef({0, 15}));
}

TEST_CASE("gather_concat's gradients equal finite differences") {
  for (const auto& rows : {at::arange(0, 4, at::kLong), at::tensor({1, 3}, at::kLong)}) {
    for (const int64_t count : {1, 3}) {
      const auto mismatches = outrider::gradient_mismatches(
          [&](const auto& in) { return gather_concat(in[0], in[1], rows, count); },
          {random({7, 4}, 1), random({7, 4}, 2)});
      CHECK(mismatches.empty());
    }
  }
}

TEST_CASE("bfloat16 gradients are rounded once") {
  const auto rows = at::arange(0, 5, at::kLong);
  const auto grad = random({5, 12}, 3, at::kBFloat16);
  const auto gradients = [&](at::ScalarType type) {
    const auto state = random({8, 3}, 1, type).requires_grad_();
    const auto embeddings = random({8, 3}, 2, type).requires_grad_();
    return torch::autograd::grad({gather_concat(state, embeddings, rows, 3)}, {state, embeddings},
                                 {grad.to(type)});
  };
  const auto actual = gradients(at::kBFloat16), exact = gradients(at::kDouble);
  for (size_t i = 0; i < 2; ++i) {
    CHECK((actual[i].scalar_type() == at::kBFloat16));
    CHECK(largest_difference(actual[i], exact[i].to(at::kBFloat16)) <= 0.016);
  }
}

TEST_CASE("gather_concat refuses what does not fit") {
  const auto state = random({4, 3}, 1);
  const auto rows = at::arange(0, 2, at::kLong);
  CHECK_THROWS_AS(gather_concat(state, state.to(at::kFloat), rows, 1), outrider::Error);
  CHECK_THROWS_AS(gather_concat(state, state.slice(0, 1), rows, 1), outrider::Error);
  CHECK_THROWS_AS(gather_concat(state, state, rows.to(at::kInt), 1), outrider::Error);
  CHECK_THROWS(gather_concat(state, state, rows, 3));  // row 1 + 3 is none
}

}  // namespace
}  // namespace hydra::testing
