#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "device.h"
#include "kernels/cuda/matrix_product.h"
#include "outrider/kernels/current_stream.h"
#include "outrider/ops/linear.h"
#include "outrider/ops/product.h"

namespace outrider::testing::product_tests {
namespace {

using kernels::DataType;
using kernels::cuda::MatrixProduct;

at::Tensor random(int64_t rows, int64_t columns, at::ScalarType type = at::kBFloat16) {
  return at::randn({rows, columns}, at::TensorOptions().device(at::kCUDA).dtype(type));
}

struct Sizes {
  int64_t m, n, k;
};

// As a step of training has them: a layer's output, a gradient of rows, one of a weight; and ends
// that fill no tile.
const std::vector<Sizes> kSizes = {{4096, 2048, 1024}, {2040, 1536, 4096}, {1000, 3208, 2056}};

// [m,k], as it lies or seen transposed.
at::Tensor factor(int64_t rows, int64_t columns, bool is_transposed) {
  return is_transposed ? random(columns, rows).t() : random(rows, columns);
}

MatrixProduct described(const Sizes& s, bool a_is_transposed, bool b_is_transposed, bool is_wide,
                        bool adds) {
  return {.type = DataType::kBFloat16,
          .out_type = is_wide ? DataType::kFloat : DataType::kBFloat16,
          .m = s.m,
          .n = s.n,
          .k = s.k,
          .a_is_transposed = a_is_transposed,
          .b_is_transposed = b_is_transposed,
          .a_stride = a_is_transposed ? s.m : s.k,
          .b_stride = b_is_transposed ? s.k : s.n,
          .out_stride = s.n,
          .adds = adds};
}

void check_kernels(const Sizes& s, bool a_is_transposed, bool b_is_transposed, bool is_wide) {
  const auto a = factor(s.m, s.k, a_is_transposed), b = factor(s.k, s.n, b_is_transposed);
  const auto sum = random(s.m, s.n, is_wide ? at::kFloat : at::kBFloat16);
  auto expected = sum.clone();
  at::addmm_out(expected, expected, a, b, expected.scalar_type());
  const auto product = described(s, a_is_transposed, b_is_transposed, is_wide, /*adds=*/true);
  const auto kernels = kernels::cuda::product_kernels(product);
  CHECK(!kernels.empty());
  for (const auto& kernel : kernels) {
    const auto actual = sum.clone();
    REQUIRE(kernels::cuda::multiply_by(
        kernel, product, {a.const_data_ptr(), b.const_data_ptr(), actual.mutable_data_ptr()},
        kernels::current_stream(actual.device())));
    CHECK(at::equal(actual, expected));
  }
}

}  // namespace

TEST_CASE("every kernel that is proposed for a product gives the bits of the library's choice") {
  at::manual_seed(1);
  for (const auto& sizes : kSizes) {
    for (const bool a_is_transposed : {false, true}) {
      for (const bool b_is_transposed : {false, true}) {
        for (const bool is_wide : {false, true}) {
          CAPTURE(fmt::format("{}x{}x{} {} {} {}", sizes.m, sizes.n, sizes.k, a_is_transposed,
                              b_is_transposed, is_wide));
          check_kernels(sizes, a_is_transposed, b_is_transposed, is_wide);
        }
      }
    }
  }
}

TEST_CASE("timed products are those of LibTorch, before they are timed, while they are and after") {
  at::manual_seed(2);
  const ops::TimedProducts timed;
  auto all_sizes = kSizes;
  all_sizes.push_back({576, 1536, 16384});  // of which cuBLAS divides k
  for (const auto& sizes : all_sizes) {
    const auto a = random(sizes.m, sizes.k), b = random(sizes.n, sizes.k).t();
    const auto sum = random(sizes.m, sizes.n, at::kFloat);
    const auto expected = at::mm(a, b);
    auto expected_sum = sum.clone();
    at::addmm_out(expected_sum, expected_sum, a, b, at::kFloat);
    for (int i = 0; i < 12; ++i) {
      CAPTURE(i);
      CHECK(at::equal(ops::product(a, b), expected));
      const auto actual = sum.clone();
      ops::add_product(actual, a, b);
      CHECK(at::equal(actual, expected_sum));
    }
  }
}

TEST_CASE("products of what kernels cannot take are LibTorch's: slices, odd rows, other types") {
  at::manual_seed(3);
  const ops::TimedProducts timed;
  const at::NoGradGuard no_grad;
  const auto wide = random(2048, 4100);
  const auto weight = random(2048, 4099);
  for (const int64_t begin : {0, 1, 8}) {
    const auto a = wide.slice(1, begin, begin + 4091), b = weight.slice(1, 0, 4091);
    const auto part = wide.slice(0, 0, 512).view({2, 256, 4100}).slice(1, 0, -1).slice(2, 0, 4099);
    for (int i = 0; i < 10; ++i) {
      CHECK(at::equal(ops::product(a, b.t()), at::mm(a, b.t())));
      CHECK(at::equal(ops::linear(part, weight).flatten(0, 1),
                      at::mm(part.reshape({-1, 4099}), weight.t())));
    }
  }
  const auto doubles = random(2048, 2048, at::kDouble);
  CHECK(at::equal(ops::product(doubles, doubles), at::mm(doubles, doubles)));
}

}  // namespace outrider::testing::product_tests
