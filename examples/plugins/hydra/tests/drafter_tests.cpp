#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

#include "outrider/model/drafter.h"
#include "support.h"

namespace hydra::testing {
namespace {

constexpr int64_t kHeads = 3, kLength = 5;

std::shared_ptr<outrider::Draft> drafting_draft() {
  auto draft = HydraMode().convert(base_info(), {{"hydra_num_heads", kHeads}}).draft;
  const at::NoGradGuard no_grad;
  uint64_t seed = 300;
  for (auto& parameter : draft->parameters()) {
    parameter.copy_(random(parameter.sizes(), ++seed) * 0.7);
  }
  return draft;
}

// What training computes of head `head` for the last state of `ids` [B,S], whose embeddings are
// those of `ids` and of `more` [B,n] behind them: [B,V].
at::Tensor training_logits(outrider::Draft& draft, const at::Tensor& ids, const at::Tensor& more,
                           int64_t head) {
  const auto all = at::cat({ids, more}, 1);
  outrider::testing::RandomBase base(all, kVocabulary, kHidden);
  const auto hidden = outrider::testing::RandomBase(ids, kVocabulary, kHidden).outputs.last_hidden;
  base.outputs.last_hidden.slice(1, 0, ids.size(1)).copy_(hidden);
  outrider::TrainBatch batch;
  batch.input_ids = all;
  std::map<std::string, at::Tensor> found;
  batch.recorder = [&](const std::string& name, const at::Tensor& tensor) { found[name] = tensor; };
  const at::NoGradGuard no_grad;
  draft.loss(base.outputs, batch);
  return found.at("hydra_logits." + std::to_string(head)).select(1, ids.size(1) - 1);
}

TEST_CASE("a chain is drafted by the heads as they are trained") {
  const auto draft = drafting_draft();
  const auto ids = random_ids({kBatch, kLength}, 1), bonus = random_ids({kBatch, 1}, 2);
  const auto drafter = draft->make_drafter();
  const outrider::testing::RandomBase base(ids, kVocabulary, kHidden);
  drafter->prefill(base.outputs, at::cat({ids.slice(1, 1), bonus}, 1));
  const auto tree = drafter->propose({.max_tokens = 9});
  REQUIRE(tree.tokens.size(1) == kHeads);
  for (int64_t i = 0; i < kHeads; ++i) {
    const auto more = at::cat({bonus, tree.tokens.slice(1, 0, i)}, 1);
    CHECK(tree.tokens.select(1, i).equal(training_logits(*draft, ids, more, i).argmax(1)));
  }
}

TEST_CASE("each path of a tree is drafted so, and a sequence that goes on alone") {
  const auto draft = drafting_draft();
  const auto ids = random_ids({kBatch, kLength}, 1), bonus = random_ids({kBatch, 1}, 2);
  const auto drafter = draft->make_drafter();
  const outrider::testing::RandomBase base(ids, kVocabulary, kHidden);
  drafter->prefill(base.outputs, at::cat({ids.slice(1, 1), bonus}, 1));
  drafter->keep({1});
  const outrider::TreeForm form{{-1, -1, 0, 1, 1, 3}, {0, 2, 1, 0, 3, 1}};
  const auto tree = drafter->propose({.form = &form});
  for (size_t i = 0; i < form.parents.size(); ++i) {
    std::vector<int64_t> path;
    for (auto node = form.parents[i]; node >= 0; node = form.parents[static_cast<size_t>(node)]) {
      path.insert(path.begin(), tree.tokens[0][node].item<int64_t>());
    }
    const auto before = at::tensor(path, at::kLong).unsqueeze(0).expand({kBatch, -1});
    const auto logits = training_logits(*draft, ids, at::cat({bonus, before}, 1),
                                        static_cast<int64_t>(path.size()))[1];
    const auto order = logits.argsort(-1, /*descending=*/true);
    CHECK(tree.tokens[0][static_cast<int64_t>(i)].item<int64_t>() ==
          order[form.ranks[i]].item<int64_t>());
  }
}

}  // namespace
}  // namespace hydra::testing
