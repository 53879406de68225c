#include "device.h"
#include "few_rows_checks.h"

namespace outrider::testing::few_rows {
namespace {

const auto kOptions = at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);
const Kind kKind{kOptions, kOptions, 0.02};  // rounded to eight bits a few times on the way

}  // namespace

TEST_CASE("products of a few rows, with what surrounds them, are those of float64") {
  at::manual_seed(31);
  for (const int64_t rows : {1, 2, 7, 8, 9, 16, 17, 24, 25, 32}) {
    for (const bool is_normed : {false, true}) {
      check_product(kKind, {rows, 576, {576, 192, 192}}, is_normed, false, false, rows % 2 == 0);
      check_product(kKind, {rows, 2048, {8192}}, is_normed, false, false, false);
      check_product(kKind, {rows, 96, {505}}, is_normed, false, rows % 2 == 1, true);
      check_product(kKind, {rows, 1536, {24, 24}}, is_normed, true, false, rows % 2 == 1);
      check_product(kKind, {rows, 2080, {4096, 4096}}, is_normed, true, false, false);
      check_product(kKind, {rows, 4128, {2048}}, is_normed, false, true, false);
    }
  }
}

TEST_CASE("what the kernels for few rows do not know is left to others") {
  const c10::InferenceMode inference;
  const auto weight = at::randn({64, 64}, kKind.options);
  CHECK(ops::takes_few_rows(at::randn({32, 64}, kKind.options), {{weight, {}}}));
  CHECK_FALSE(ops::takes_few_rows(at::randn({33, 64}, kKind.options), {{weight, {}}}));
  CHECK_FALSE(
      ops::takes_few_rows(at::randn({1, 64}, kKind.options.dtype(at::kHalf)), {{weight, {}}}));
  CHECK_FALSE(ops::takes_few_rows(at::randn({64, 1}, kKind.options).t(), {{weight.t(), {}}}));
  CHECK_FALSE(ops::takes_few_rows(at::randn({1, 72}, kKind.options),
                                  {{at::randn({8, 72}, kKind.options), {}}}));
  CHECK_FALSE(ops::attends_few_rows(at::randn({1, 80}, kKind.options), 80));
}

TEST_CASE("attention of a few rows to kept keys is that of plain loops") {
  check_attentions(kKind);
}

TEST_CASE("a base gives few rows behind kept ones what it gives them in one pass over all") {
  check_bases(kKind);
}

}  // namespace outrider::testing::few_rows
