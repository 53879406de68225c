#include <cmath>

#include "outrider/ops/ridge_regression.h"
#include "tensor_checks.h"

namespace outrider::testing::ridge_regression_tests {
namespace {

// Least squares over the rows and, below them, λ's as rows of their own.
at::Tensor expected(const at::Tensor& x, const at::Tensor& y, double strength) {
  const double lambda = strength * x.square().sum(0).mean().item<double>();
  const auto rows = at::cat({x, at::eye(x.size(1), x.options()) * std::sqrt(lambda)});
  const auto wanted = at::cat({y, at::zeros({x.size(1), y.size(1)}, y.options())});
  return at::matmul(at::linalg_pinv(rows), wanted).t();
}

TEST_CASE("a ridge regression equals least squares with rows for the penalty") {
  for (const int64_t rows : {1, 3, 40}) {  // also fewer than unknowns
    for (const double strength : {1e-3, 0.5}) {
      const auto x = random({rows, 7}, 1), y = random({rows, 5}, 2);
      ops::RidgeRegression regression(7, 5, at::kCPU, strength);
      regression.add(x.slice(0, 0, rows / 2), y.slice(0, 0, rows / 2));
      regression.add(x.slice(0, rows / 2), y.slice(0, rows / 2));
      CHECK_CLOSE(regression.solution(), expected(x, y, strength), 1e-9);
    }
  }
}

TEST_CASE("a ridge regression on half types sums in float64") {
  const auto x = random({64, 6}, 3, at::kBFloat16), y = random({64, 2}, 4, at::kBFloat16);
  ops::RidgeRegression regression(6, 2, at::kCPU);
  regression.add(x, y);
  CHECK_CLOSE(regression.solution(), expected(x.to(at::kDouble), y.to(at::kDouble), 1e-3), 1e-9);
}

TEST_CASE("a ridge regression on nothing is zero") {
  ops::RidgeRegression regression(3, 2, at::kCPU);
  regression.add(at::zeros({4, 3}), at::ones({4, 2}));
  CHECK_CLOSE(regression.solution(), at::zeros({2, 3}, at::kDouble), 0.0);
}

}  // namespace
}  // namespace outrider::testing::ridge_regression_tests
