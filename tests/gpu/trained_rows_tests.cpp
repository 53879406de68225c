#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include "bench/workload.h"
#include "device.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/loss/trained_rows.h"
#include "outrider/ops/documents.h"

namespace outrider::testing::trained_rows_tests {
namespace {

// Two rows of 96 tokens, as two documents and one with padding behind it; about half are trained.
TrainBatch half_trained_batch() {
  TrainBatch batch;
  batch.input_ids = at::randint(0, 1000, {2, 96}, at::kLong);
  batch.attention_mask = at::ones_like(batch.input_ids);
  batch.attention_mask[1].slice(0, 80).zero_();
  batch.loss_mask = at::rand({2, 96}).gt(0.5).to(at::kLong);
  batch.document_ids = at::zeros_like(batch.input_ids);
  batch.document_ids[0].slice(0, 40).fill_(1);
  batch.document_ids[1].slice(0, 80).fill_(1);
  for (auto* tensor :
       {&batch.input_ids, &batch.attention_mask, &batch.loss_mask, &batch.document_ids}) {
    *tensor = on_device(*tensor);
  }
  batch.documents = ops::documents_of(batch.document_ids);
  return batch;
}

struct Learnt {
  at::Tensor loss;
  std::vector<at::Tensor> gradients;
  std::vector<StepMetrics> steps;
};

Learnt learnt(CausalLM& model, ForwardInput input) {
  std::vector<at::Tensor> trained;
  for (const auto& parameter : model.parameters()) {
    if (parameter.requires_grad()) trained.push_back(parameter);
  }
  const auto output = model.forward(input);
  return {output.loss.detach(),
          torch::autograd::grad({output.loss}, trained, {}, std::nullopt, false,
                                /*allow_unused=*/true),
          output.draft_losses.front().steps};
}

}  // namespace

TEST_CASE("rows that count come first on the device, and no more than may count are there") {
  at::manual_seed(23);
  const auto weights = at::rand({3, 50}).gt(0.6).to(at::kFloat);
  const auto expected = loss::trained_rows(weights, 60);
  const int64_t count = expected.weight.size(0);
  for (const int64_t most : {count, count + 7, int64_t{150}, int64_t{1000}}) {
    CAPTURE(most);
    const auto rows = loss::trained_rows(on_device(weights), 60, most);
    const int64_t found = rows.weight.size(0);
    CHECK(found == std::min<int64_t>(most, 150));
    CHECK(rows.weight.sum().item<int64_t>() == count);
    CHECK(std::get<0>(at::_unique(rows.index())).size(0) == found);
    const auto counting = rows.weight.nonzero().flatten();
    CHECK(at::equal(rows.index().index_select(0, counting).cpu(), expected.index()));
    if (most < 150) CHECK(counting.max().item<int64_t>() == count - 1);
  }
}

TEST_CASE("a loss on the device is that of all rows where those that do not count are left out") {
  for (const char* name : {"eagle", "medusa"}) plugin_loader().load({.name = name});
  const auto model = make_workload_model(workload_of("smollm2-k3-96x2"),
                                         at::TensorOptions(at::kCUDA).dtype(at::kFloat));
  for (const auto& attached : model->speculative_state()) attached.draft->train();
  at::manual_seed(24);
  const ForwardInput input{.batch = half_trained_batch(), .right_padded = true};
  auto few = input;
  few.batch.most_targets = token_targets(input.batch).mask.sum().item<int64_t>();
  CHECK(*few.batch.most_targets < 120);
  const auto expected = learnt(*model, input), actual = learnt(*model, few);
  CHECK(difference(actual.loss, expected.loss) < 1e-5);
  for (size_t i = 0; i < expected.gradients.size(); ++i) {
    CAPTURE(i);
    REQUIRE(actual.gradients[i].defined() == expected.gradients[i].defined());
    if (!expected.gradients[i].defined()) continue;
    CHECK(difference(actual.gradients[i], expected.gradients[i]) < 1e-4);
  }
  for (size_t k = 0; k < expected.steps.size(); ++k) {
    CHECK(difference(actual.steps[k].loss, expected.steps[k].loss) < 1e-5);
    CHECK(difference(actual.steps[k].accuracy, expected.steps[k].accuracy) < 1e-6);
    CHECK(difference(actual.steps[k].overlap, expected.steps[k].overlap) < 1e-4);
    CHECK(at::equal(actual.steps[k].count, expected.steps[k].count));
  }
}

}  // namespace outrider::testing::trained_rows_tests
