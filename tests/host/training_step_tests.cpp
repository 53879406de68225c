#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <map>

#include "tiny_training.h"
#include "trainer/training_step.h"

namespace outrider::training_step_tests {

using testing::tiny_model;

ForwardInput batch(int64_t first_token) {
  ForwardInput input;
  input.batch.input_ids =
      (at::arange(12, at::kLong) + first_token).remainder(testing::kTinyVocabulary).view({2, 6});
  return input;
}

std::vector<at::Tensor> values(const TrainingStep& step) {
  std::vector<at::Tensor> all;
  for (const auto& parameter : step.parameters()) all.push_back(parameter.tensor.detach().clone());
  return all;
}

struct Plain {
  at::Tensor loss;
  std::vector<at::Tensor> gradients;
};

/// The mean of both batches' losses and its gradients, by autograd alone.
Plain plain_mean(CausalLM& model, const std::vector<AdamW::Parameter>& parameters) {
  at::manual_seed(7);  // the tiny draft draws in its loss
  const auto first = model.forward(batch(0)).loss;
  const auto loss = (first + model.forward(batch(3)).loss) / 2.0;
  std::vector<at::Tensor> leaves;
  for (const auto& parameter : parameters) leaves.push_back(parameter.tensor);
  return {loss.detach(), torch::autograd::grad({loss}, leaves)};
}

TEST_CASE("a step's gradients are the mean over its batches, seen whole before they are clipped") {
  const auto model = tiny_model();
  std::vector<at::Tensor> seen;
  TrainingStep step(*model, {.max_grad_norm = 1e-3}, {.finish = [&](const auto& gradients) {
    for (const auto& gradient : gradients) seen.push_back(gradient.clone());
  }});
  REQUIRE(!step.trains_base());
  const auto expected = plain_mean(*model, step.parameters());
  at::manual_seed(7);
  step.learn(batch(0), 0.5);
  step.learn(batch(3), 0.5);
  CHECK(seen.empty());
  const auto result = step.update(0.0);
  REQUIRE(seen.size() == expected.gradients.size());
  double square = 0;
  for (size_t i = 0; i < seen.size(); ++i) {
    CHECK(at::allclose(seen[i], expected.gradients[i], 1e-5, 1e-7));
    square += expected.gradients[i].square().sum().item<double>();
  }
  CHECK(result.loss.item<double>() == doctest::Approx(expected.loss.item<double>()));
  CHECK(result.gradient_norm.item<double>() == doctest::Approx(std::sqrt(square)));
  CHECK(std::sqrt(square) > 1e-3);  // or nothing was clipped
}

TEST_CASE("what the reduction makes of the gradients is what moves the parameters") {
  for (const double factor : {0.0, 1.0}) {
    const auto model = tiny_model();
    TrainingStep step(*model, {}, {.finish = [&](const auto& gradients) {
      for (const auto& gradient : gradients) at::Tensor(gradient).mul_(factor);
    }});
    const auto before = values(step);
    step.learn(batch(1), 1.0);
    const auto result = step.update(0.1);
    const auto after = values(step);
    bool moved = false;
    for (size_t i = 0; i < before.size(); ++i) moved |= !at::equal(before[i], after[i]);
    CHECK(moved == (factor > 0));
    CHECK((result.gradient_norm.item<double>() > 0) == (factor > 0));
  }
}

TEST_CASE("each gradient is handed out once, complete, while the last batch is computed") {
  const auto model = tiny_model();
  std::map<size_t, at::Tensor> ready;
  std::vector<at::Tensor> all;
  TrainingStep step(*model, {},
                    {.ready =
                         [&](size_t index, const at::Tensor& gradient) {
                           CHECK(ready.emplace(index, gradient.clone()).second);
                         },
                     .finish = [&](const auto& gradients) { all = gradients; }});
  step.learn(batch(0), 0.5, /*is_last=*/false);
  CHECK(ready.empty());
  step.learn(batch(3), 0.5, /*is_last=*/true);
  CHECK(all.empty());
  step.update(0.0);
  REQUIRE(all.size() == step.parameters().size());
  for (size_t i = 0; i < all.size(); ++i) {
    REQUIRE(ready.contains(i) == all[i].defined());
    if (all[i].defined()) CHECK(at::equal(ready.at(i), all[i]));
  }
}

TEST_CASE("each step begins with no gradient and no loss of the one before") {
  const auto model = tiny_model();
  TrainingStep step(*model, {});
  at::manual_seed(1);
  const auto first = step.learn(batch(2), 1.0).loss.item<double>();
  CHECK(step.update(0.0).loss.item<double>() == doctest::Approx(first));
  for (const auto& gradient : step.optimizer().gradients()) CHECK(!gradient.defined());
  at::manual_seed(1);
  step.learn(batch(2), 1.0);
  CHECK(step.update(0.0).loss.item<double>() == doctest::Approx(first));
}

}  // namespace outrider::training_step_tests
