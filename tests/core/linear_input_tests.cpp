#include <memory>
#include <vector>

#include "gradcheck.h"
#include "outrider/nn/mlp.h"
#include "outrider/ops/linear_input.h"
#include "outrider/ops/rms_norm.h"

namespace outrider::testing::linear_input_tests {
namespace {

using Tensors = std::vector<at::Tensor>;

at::Tensor product_and_sine(const Tensors& x) { return x[0] * x[1].sin(); }

// Two sources, two layers with biases.
Tensors linear_inputs() {
  return {random({2, 3, 4}, 1), random({4}, 2), random({5, 4}, 3),
          random({6, 4}, 4),    random({5}, 5), random({6}, 6)};
}

at::Tensor of_made_input(const Tensors& in) {
  const ops::LinearInput x({in[0], in[1]}, product_and_sine);
  const bool has_bias = in.size() == 6;
  const auto all = ops::linear_outputs(
      x, {{in[2], has_bias ? in[4] : at::Tensor()}, {in[3], has_bias ? in[5] : at::Tensor()}});
  return at::cat({all[0], all[1].square()}, -1);
}

TEST_CASE("layers of a made input equal their formula, gradients equal finite differences") {
  const auto in = linear_inputs();
  const auto x = in[0] * in[1].sin();
  const auto expected =
      at::cat({at::matmul(x, in[2].t()) + in[4], (at::matmul(x, in[3].t()) + in[5]).square()}, -1);
  CHECK_CLOSE(of_made_input(in), expected, 1e-13);
  check_gradients(of_made_input, in);
  check_gradients(of_made_input, {in.begin(), in.begin() + 4});
}

TEST_CASE("layers of a plain tensor have the same gradients") {
  check_gradients(
      [](const Tensors& in) {
        return ops::linear_outputs(in[0], {{in[1], {}}}).front();
      },
      {random({2, 3, 4}, 1), random({5, 4}, 2)});
}

TEST_CASE("a source without a gradient, and weights without, get none") {
  auto in = linear_inputs();
  in[1].requires_grad_();
  of_made_input(in).sum().backward();
  CHECK(in[1].grad().defined());
  CHECK_FALSE(in[0].grad().defined());
  CHECK_FALSE(in[2].grad().defined());
  in = linear_inputs();
  in[3].requires_grad_();
  of_made_input(in).sum().backward();
  CHECK(in[3].grad().defined());
}

TEST_CASE("what is made is not kept") {
  auto in = linear_inputs();
  for (auto& tensor : in) tensor.requires_grad_();
  std::vector<c10::weak_intrusive_ptr<c10::StorageImpl>> made;
  const ops::LinearInput x({in[0], in[1]}, [&](const Tensors& sources) {
    const auto tensor = product_and_sine(sources);
    made.emplace_back(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(
        tensor.storage().unsafeGetStorageImpl()));
    return tensor;
  });
  const auto y = ops::linear_outputs(x, {{in[2], {}}}).front();
  REQUIRE(made.size() == 1);
  CHECK(made[0].expired());
  y.sum().backward();
  CHECK(made.size() == 2);
}

TEST_CASE("layers of one input have a bias each, or none has") {
  const auto in = linear_inputs();
  CHECK_CONTAINS(failure(ErrorCode::kInternal,
                         [&] {
                           ops::linear_outputs(in[0], {{in[2], in[4]}, {in[3], {}}});
                         }),
                 "either each layer has a bias, or none");
}

TEST_CASE("an MLP computes the same whatever its backward pass computes again") {
  for (const bool bias : {false, true}) {
    nn::SwiGluMlp mlp(4, 6, bias, at::kDouble);
    Tensors inputs = {random({2, 3, 4}, 1), random({4}, 2)};
    for (const auto& parameter : mlp.parameters()) {
      inputs.push_back(random(parameter.sizes(), 10 + inputs.size()));
    }
    for (const auto recompute :
         {ops::Recompute::kNothing, ops::Recompute::kElementwise, ops::Recompute::kProducts}) {
      CAPTURE(bias);
      CAPTURE(static_cast<int>(recompute));
      const auto run = [&](const Tensors& in) {
        size_t next = 2;
        for (auto* layer : {&*mlp.gate_proj, &*mlp.up_proj, &*mlp.down_proj}) {
          layer->weight = in[next++];
          if (bias) layer->bias = in[next++];
        }
        const ops::LinearInput x({in[0], in[1]}, [](const Tensors& sources) {
          return ops::rms_norm(sources[0], sources[1], 1e-5);
        });
        return mlp.forward(x, recompute);
      };
      check_gradients(run, inputs);
      CHECK_CLOSE(run(inputs), mlp.forward(ops::rms_norm(inputs[0], inputs[1], 1e-5)), 1e-13);
    }
  }
}

}  // namespace
}  // namespace outrider::testing::linear_input_tests
