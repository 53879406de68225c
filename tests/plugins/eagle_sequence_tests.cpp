#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/numerics.h"
#include "eagle_cases.h"
#include "thread_share.h"
#include "training_results.h"

namespace outrider::testing::eagle_sequence_tests {
namespace {

using namespace eagle_cases;

ForwardInput input_of(const Case& c) {
  ForwardInput input;
  auto& batch = input.batch;
  batch.input_ids = random_ids({kBatch, c.length}, kVocabulary, 5);
  batch.attention_mask = at::ones({kBatch, c.length}, at::kLong);
  batch.attention_mask[1].slice(0, c.length - c.length / 4).zero_();
  if (c.labelled) {
    batch.labels = random_ids({kBatch, c.length}, kVocabulary, 6);
    batch.labels.slice(1, 1, 3).fill_(-100);
  } else {
    batch.loss_mask = random_mask({kBatch, c.length}, 0.8, 7).to(at::kLong);
  }
  return input;
}

at::Tensor results_of_processes(const Case& c, int64_t count) {
  std::vector<at::Tensor> shares(static_cast<size_t>(count));
  ThreadShares(count).run([&](const std::shared_ptr<SequenceShare>& share) {
    auto input = input_of(c);
    input.sequence_share = share;
    input.batch.sum_over_processes = sum_over(share);
    shares[static_cast<size_t>(share->index())] = results_of(*model_of(c), input);
  });
  return at::stack(shares).sum(0);
}

TEST_CASE("processes that share sequences have the loss and gradients of one") {
  for (const auto& c : cases()) {
    const auto alone = results_of(*model_of(c), input_of(c));
    for (const int64_t count : {1, 2, 4}) {
      CAPTURE(c.name);
      CAPTURE(count);
      CHECK_CLOSE(results_of_processes(c, count), alone, 1e-11);
    }
  }
}

std::optional<SequenceNeeds> needs_of(const Case& c, const std::string& numerics = "") {
  const auto model = base_model();
  auto base = model->base_info();
  base.reference_numerics = numerics;
  return conversion_of(c, base).draft->sequence_needs();
}

TEST_CASE("a draft says how far it looks ahead, or that it cannot be divided") {
  const auto needs = needs_of({"",
                               {{"eagle_ttt_steps", 5}},
                               with(kEagle3, {{"parallel_draft_step", 3}, {"has_lm_head", true}})});
  REQUIRE(needs.has_value());
  CHECK(needs->positions_ahead == 8);
  CHECK(needs->attention_heads == 4);
  CHECK_FALSE(needs_of({"", {{"eagle_mix_hidden_states", true}}, kEagle3}).has_value());
  CHECK_FALSE(needs_of({"", kNone, kEagle3}, "0.47").has_value());
  CHECK_FALSE(needs_of({"", kNone, kNone}, "0.42").has_value());
}

}  // namespace
}  // namespace outrider::testing::eagle_sequence_tests
