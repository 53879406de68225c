#include <c10/core/InferenceMode.h>

#include <vector>

#include "kernels/cpu/few_rows.h"
#include "kernels/cpu/instruction_set.h"
#include "outrider/ops/linear.h"
#include "tensor_checks.h"

namespace outrider::testing::linear_tests {
namespace {

using kernels::cpu::FewRows;
using kernels::cpu::FewRowsKernels;
using kernels::cpu::InstructionSet;

std::vector<const FewRowsKernels*> kernels_of_this_machine() {
  std::vector<const FewRowsKernels*> all{&kernels::cpu::few_rows_baseline()};
#if defined(__x86_64__)
  const auto best = kernels::cpu::best_instruction_set();
  if (best != InstructionSet::kBaseline) all.push_back(&kernels::cpu::few_rows_avx2());
  if (best == InstructionSet::kAvx512) all.push_back(&kernels::cpu::few_rows_avx512());
#endif
  return all;
}

TEST_CASE("a product of a few rows equals float64, whatever the instructions and sizes") {
  for (const auto* kernels : kernels_of_this_machine()) {
    for (int64_t rows = 0; rows <= 17; ++rows) {
      for (const int64_t inner : {1, 15, 16, 17, 64, 101}) {
        for (const int64_t outputs : {1, 3, 4, 10}) {
          for (const auto type : {at::kFloat, at::kBFloat16}) {
            const auto x = random({rows, inner}, 1, at::kFloat);
            const auto weight = random({outputs, inner}, 2, type);
            auto y = at::full({rows, outputs}, 99.0, at::kFloat);
            const FewRows product{x.const_data_ptr<float>(),
                                  weight.const_data_ptr(),
                                  y.mutable_data_ptr<float>(),
                                  rows,
                                  inner,
                                  outputs,
                                  outputs};
            const auto run = type == at::kFloat ? kernels->of_float : kernels->of_bfloat16;
            const int64_t middle = outputs / 2;  // as two threads would
            run(product, middle, outputs);
            run(product, 0, middle);
            const auto expected = at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t());
            CHECK_CLOSE(y, expected, 1e-5 * (1.0 + static_cast<double>(inner) / 10.0));
          }
        }
      }
    }
  }
}

TEST_CASE("inference mode changes nothing but rounding") {
  const auto bias = random({7}, 4, at::kBFloat16);
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const auto weight_type : {at::kFloat, at::kBFloat16, at::kDouble}) {
      for (const int64_t rows : {1, 5, 40}) {
        const auto x = random({2, rows, 12}, 5, type), weight = random({7, 12}, 6, weight_type);
        const auto expected = ops::linear(x, weight, bias);
        const c10::InferenceMode inference;
        const auto y = ops::linear(x, weight, bias);
        CHECK((y.scalar_type() == type));
        CHECK((y.sizes() == at::IntArrayRef{2, rows, 7}));
        CHECK_CLOSE(y, expected,
                    type == at::kBFloat16 || weight_type == at::kBFloat16 ? 0.1 : 1e-5);
      }
    }
  }
}

}  // namespace
}  // namespace outrider::testing::linear_tests
