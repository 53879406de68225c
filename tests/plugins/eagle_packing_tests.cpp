#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "eagle_cases.h"
#include "training_results.h"

namespace outrider::testing::eagle_packing_tests {
namespace {

using namespace eagle_cases;

/// Documents by their lengths, in rows.
using Rows = std::vector<std::vector<int64_t>>;

// The tokens of document `number`, the same wherever it lies.
TrainBatch document(const Case& c, int64_t number, int64_t length) {
  const auto seed = static_cast<uint64_t>(100 + number);
  TrainBatch batch;
  batch.input_ids = random_ids({1, length}, kVocabulary, seed);
  batch.loss_mask = random_mask({1, length}, 0.8, seed + 50).to(at::kLong);
  batch.document_ids = at::full({1, length}, number, at::kLong);
  batch.attention_mask = at::ones({1, length}, at::kLong);
  if (c.labelled) {
    batch.labels = random_ids({1, length}, kVocabulary, seed + 90);
    batch.labels.slice(1, 1, 2).fill_(-100);
    batch.labels.slice(1, length - 1).fill_(-100);  // the token after its end
    batch.loss_mask = at::Tensor();
  }
  return batch;
}

// Rows of documents after one another, padded to `width`.
TrainBatch joined(const Case& c, const Rows& rows, int64_t width) {
  TrainBatch batch;
  int64_t number = 0;
  const auto members = {&TrainBatch::input_ids, &TrainBatch::loss_mask, &TrainBatch::labels,
                        &TrainBatch::document_ids, &TrainBatch::attention_mask};
  for (const auto& lengths : rows) {
    std::vector<TrainBatch> documents;
    for (const int64_t length : lengths) documents.push_back(document(c, number++, length));
    for (const auto member : members) {
      if (!(documents.front().*member).defined()) continue;
      std::vector<at::Tensor> parts;
      for (const auto& one : documents) parts.push_back(one.*member);
      const auto row = at::cat(parts, 1);
      const int64_t fill = member == &TrainBatch::document_ids ? 99 : 0;
      const auto padded = at::constant_pad_nd(row, {0, width - row.size(1)}, fill);
      batch.*member = (batch.*member).defined() ? at::cat({batch.*member, padded}) : padded;
    }
  }
  return batch;
}

at::Tensor results(const Case& c, TrainBatch batch, bool packed) {
  if (!packed) batch.document_ids = at::Tensor();
  ForwardInput input;
  input.batch = std::move(batch);
  input.right_padded = true;
  return results_of(*model_of(c), input);
}

void check_packed(const Case& c) {
  const auto alone = results(c, joined(c, {{13}, {2}, {5}, {3}, {7}, {1}}, 13), false);
  for (const int64_t width : {16, 19}) {
    CAPTURE(width);
    const auto packed = joined(c, {{13, 2}, {5, 3, 7, 1}}, width);
    CHECK_CLOSE(results(c, packed, true), alone, 1e-11);
  }
  CHECK_CLOSE(results(c, joined(c, {{13, 2, 5, 3, 7, 1}}, 31), true), alone, 1e-11);
}

TEST_CASE("documents that share a row have the loss and gradients of documents alone") {
  for (const auto& c : cases()) {
    CAPTURE(c.name);
    check_packed(c);
  }
}

TEST_CASE("attention across documents would change the loss") {
  const Case c{"", kNone, kEagle3};
  auto batch = joined(c, {{13, 2}, {5, 3, 7, 1}}, 16);
  const auto apart = results(c, batch, true);
  batch.document_ids.zero_();
  CHECK(largest_difference(results(c, batch, true)[0], apart[0]) > 1e-3);
}

TEST_CASE("what goes from one end of a row to the other is refused for several documents") {
  const Case mixing{"", {{"eagle_mix_hidden_states", true}}, kEagle3};
  ForwardInput input;
  input.batch = joined(mixing, {{5, 3}}, 8);
  const auto model = model_of(mixing);
  CHECK_CONTAINS(failure(ErrorCode::kUnsupported, [&] { model->forward(input); }),
                 "rows of several documents do not go with");
}

}  // namespace
}  // namespace outrider::testing::eagle_packing_tests
