#include <torch/csrc/autograd/custom_function.h>

#include "gradcheck.h"

namespace outrider::testing::gradient_check_tests {
namespace {

// x² whose gradient is off by a part in ten thousand.
struct WrongSquare : torch::autograd::Function<WrongSquare> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x) {
    ctx->save_for_backward({x});
    return x * x;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grad) {
    return {2.0002 * grad[0] * ctx->get_saved_variables()[0]};
  }
};

}  // namespace

TEST_CASE("a wrong gradient is found at every element, and that of a single number too") {
  for (const bool as_sum : {false, true}) {
    const auto wrong = gradient_mismatches(
        [&](const auto& inputs) {
          const auto squares = WrongSquare::apply(inputs[0]);
          return as_sum ? squares.sum() : squares;
        },
        {random({5}, 1)});
    CHECK(wrong.size() == 5);
  }
  CHECK(gradient_mismatches([](const auto& inputs) { return inputs[0].square().sum(); },
                            {random({5}, 1)})
            .empty());
}

}  // namespace outrider::testing::gradient_check_tests
