#include <memory>
#include <optional>
#include <vector>

#include "draft/eagle_draft.h"
#include "eagle_cases.h"
#include "outrider/error.h"
#include "outrider/model/draft_fit.h"

namespace outrider::testing::eagle_fit_tests {
namespace {

using eagle_cases::Case;
using eagle_cases::kVocabulary;

// As a conversion leaves it: the draft starts from the base.
std::shared_ptr<CausalLM> converted(const Case& c) {
  auto model = eagle_cases::model_of(c);
  model->speculative_state().front().draft->initialize(*model);
  return model;
}

eagle::EagleDraft& draft_of(const CausalLM& model) {
  return dynamic_cast<eagle::EagleDraft&>(*model.speculative_state().front().draft);
}

at::Tensor tokens(int64_t seed, int64_t length) {
  at::manual_seed(seed);
  return at::randint(kVocabulary, {1, length}, at::kLong);
}

struct Passed {
  TrainBatch batch;
  BaseOutputs base;
};

std::vector<Passed> passes(CausalLM& model, const HiddenStateRequest& request) {
  std::vector<Passed> all;
  for (const int64_t length : {40, 33, 2, 1, 25}) {
    TrainBatch batch{.input_ids = tokens(100 + length, length)};
    auto base = model.run_base({.input_ids = batch.input_ids, .request = request});
    all.push_back({batch, std::move(base)});
  }
  return all;
}

void fit(CausalLM& model) {
  const at::NoGradGuard no_grad;
  const auto fit = draft_of(model).make_fit(model);
  REQUIRE(fit);
  for (const auto& [batch, base] : passes(model, fit->hidden_states_needed()))
    fit->add(base, batch);
  fit->finish();
}

// Mean square by which the training pass's first outputs miss the base's next states.
double miss(CausalLM& model) {
  const at::NoGradGuard no_grad;
  auto request = draft_of(model).hidden_states_needed();
  request.last_hidden_prenorm = true;
  double sum = 0, count = 0;
  for (const auto& [batch, base] : passes(model, request)) {
    if (batch.input_ids.size(1) < 2) continue;
    const auto output = draft_of(model).decoder().run(base, batch, 1).front();
    const auto difference = output - base.last_hidden_prenorm.slice(1, 1);
    sum += difference.square().sum().item<double>();
    count += static_cast<double>(difference.numel());
  }
  return sum / count;
}

double spread_of_states(CausalLM& model) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> states;
  for (const auto& passed : passes(model, {.last_hidden_prenorm = true})) {
    states.push_back(passed.base.last_hidden_prenorm.squeeze(0));
  }
  return at::cat(states).var(0, /*unbiased=*/false).mean().item<double>();
}

TEST_CASE("a fit's draft forecasts the base's next state, in the training pass") {
  for (const auto& c : std::vector<Case>{
           {"EAGLE-3", eagle_cases::kNone, eagle_cases::kEagle3},
           {"a part of the vocabulary", eagle_cases::kNone, eagle_cases::kEagle3, 13, true}}) {
    CAPTURE(c.name);
    const auto model = converted(c);
    const double before = miss(*model), spread = spread_of_states(*model);
    fit(*model);
    CHECK(miss(*model) < 0.6 * before);
    CHECK(miss(*model) < 0.7 * spread);  // what the mean alone would miss by
  }
}

TEST_CASE("fc is the ridge regression from the layers that it reads to the last state") {
  const auto model = converted({"EAGLE-3", eagle_cases::kNone, eagle_cases::kEagle3});
  const auto layers = draft_of(*model).settings().aux_layer_ids;
  fit(*model);
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> read, states;
  for (const auto& passed :
       passes(*model, {.layer_outputs = layers, .last_hidden_prenorm = true})) {
    std::vector<at::Tensor> parts;
    for (const auto layer : layers) parts.push_back(passed.base.layer_outputs.at(layer));
    const auto without_last = [](const at::Tensor& x) { return x.slice(1, 0, -1).squeeze(0); };
    read.push_back(without_last(at::cat(parts, -1)));
    states.push_back(without_last(passed.base.last_hidden_prenorm));
  }
  const auto x = at::cat(read), y = at::cat(states);
  const auto penalty = at::eye(x.size(1), x.options()) * x.square().sum(0).mean() * 1e-3;
  const auto expected = at::linalg_solve(at::matmul(x.t(), x) + penalty, at::matmul(x.t(), y)).t();
  CHECK_CLOSE(model->named_parameters()["eagle_module.fc.weight"], expected, 1e-8);
}

TEST_CASE("what was trained is not fitted over, and what has no such start has no fit") {
  const auto model = converted({"EAGLE-3", eagle_cases::kNone, eagle_cases::kEagle3});
  fit(*model);
  try {
    draft_of(*model).make_fit(*model);
    FAIL("a second fit was allowed");
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kInvalidArgument);
  }
  const auto plain = converted({"EAGLE-1", eagle_cases::kNone, {{"use_aux_hidden_state", false}}});
  CHECK(draft_of(*plain).make_fit(*plain) == nullptr);
}

}  // namespace
}  // namespace outrider::testing::eagle_fit_tests
