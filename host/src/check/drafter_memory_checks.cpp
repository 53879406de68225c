#include <ATen/ATen.h>
#include <fmt/format.h>

#include "check/decoding_checks.h"
#include "check/half_trained.h"
#include "check/mode_runs.h"
#include "verify/step_passes.h"

namespace outrider::check {
namespace {

BaseOutputs rows_of(BaseOutputs outputs, int64_t begin, int64_t end) {
  for (auto* states : hidden_states_of(outputs)) *states = states->slice(1, begin, end);
  return outputs;
}

BaseOutputs sequences_of(BaseOutputs outputs, const at::Tensor& index) {
  for (auto* states : hidden_states_of(outputs)) *states = states->index_select(0, index);
  return outputs;
}

/// Three sequences of one length, and drafters that read them.
class Sequences {
 public:
  explicit Sequences(CausalLM& model)
      : model_(model),
        ids_(some_tokens(3, 16, model.config().vocab_size, 41)),
        base_(verify::whole_pass(model, ids_, draft_of(model).hidden_states_needed())) {}

  /// The first so many rows, and the tokens after them.
  BaseOutputs rows(int64_t count) const { return rows_of(base_, 0, count); }
  at::Tensor tokens(int64_t count) const { return ids_.slice(1, 1, count + 1); }

  std::unique_ptr<Drafter> prefilled(int64_t count) const {
    auto drafter = drafter_of(model_);
    drafter->prefill(rows(count), tokens(count));
    return drafter;
  }
  void commit(Drafter& drafter, int64_t begin, int64_t end,
              const at::Tensor& sequences = {}) const {
    auto rows = rows_of(base_, begin, end);
    auto tokens = ids_.slice(1, begin + 1, end + 1);
    if (sequences.defined()) {
      rows = sequences_of(rows, sequences);
      tokens = tokens.index_select(0, sequences);
    }
    drafter.commit(rows, tokens);
  }

 private:
  CausalLM& model_;
  at::Tensor ids_;  // [3,S]
  BaseOutputs base_;
};

/// A seeded chain: its tokens, and where it has them its distributions.
DraftTree chain_of(Drafter& drafter) {
  Sampler sampler({.temperature = 1.0}, /*seed=*/7);
  return drafter.propose(
      {.max_tokens = kDraftTokens, .depth = kDraftTokens, .width = 1, .sampler = &sampler});
}

// Every shape once, of which nothing is accepted.
void propose_in_vain(Drafter& drafter) {
  for (const auto shape : {DraftShape::kChain, DraftShape::kStaticTree, DraftShape::kDynamicTree}) {
    const DraftPlan plan(settings_of(shape));
    drafter.propose(plan.request());
  }
}

bool are_same(const DraftTree& a, const DraftTree& b) {
  if (a.q.defined() != b.q.defined()) return false;
  if (!a.q.defined()) return at::equal(a.tokens, b.tokens);
  // Beyond the first level a draw that falls between two orders of summation decides.
  return relative_difference(a.q.select(1, 0), b.q.select(1, 0)) < kClose &&
         (!at::equal(a.tokens, b.tokens) || relative_difference(a.q, b.q) < kClose);
}

void require_same(const DraftTree& actual, const DraftTree& expected, const std::string& when) {
  if (!are_same(actual, expected)) throw Failure(when);
}

DraftTree sequences_in(const DraftTree& tree, const at::Tensor& index) {
  return {tree.tokens.index_select(0, index), tree.parents.index_select(0, index),
          tree.q.defined() ? tree.q.index_select(0, index) : tree.q};
}

}  // namespace

std::string check_order(const ModeSubject& subject) {
  const auto model = half_trained(subject);
  if (!model) return kNothingDrafted;
  const c10::InferenceMode inference;
  const Sequences sequences(*model);
  const auto once = sequences.prefilled(6);
  const auto first = chain_of(*once);
  require_same(chain_of(*once), first, "a second proposal differs from the first");
  const auto whole = sequences.prefilled(12), parts = sequences.prefilled(5);
  sequences.commit(*parts, 5, 6);
  sequences.commit(*parts, 6, 12);
  require_same(chain_of(*parts), chain_of(*whole),
               "rows that were committed in parts, without proposals between, are proposed for "
               "otherwise than the same rows at once");
  once->prefill(sequences.rows(3), sequences.tokens(3));
  require_same(chain_of(*once), chain_of(*sequences.prefilled(3)),
               "a second prefill() does not begin anew");
  return "proposals twice, commits without proposals and a second prefill are as they must be";
}

std::string check_rollback(const ModeSubject& subject) {
  const auto model = half_trained(subject);
  if (!model) return kNothingDrafted;
  const c10::InferenceMode inference;
  const Sequences sequences(*model);
  const auto used = sequences.prefilled(4);
  for (int64_t end = 5; end <= 12; ++end) {
    propose_in_vain(*used);
    sequences.commit(*used, end - 1, end);
    require_same(
        chain_of(*used), chain_of(*sequences.prefilled(end)),
        fmt::format("after {} rounds of rejected proposals it proposes otherwise than a new "
                    "drafter that reads the accepted tokens",
                    end - 4));
  }
  return "8 rounds of rejected chains and trees leave no trace";
}

std::string check_keep(const ModeSubject& subject) {
  const auto model = half_trained(subject);
  if (!model) return kNothingDrafted;
  const c10::InferenceMode inference;
  const Sequences sequences(*model);
  const auto all = sequences.prefilled(6), some = sequences.prefilled(6);
  const auto index = at::tensor(std::vector<int64_t>{2, 0}, at::kLong);
  propose_in_vain(*some);
  some->keep({2, 0});
  const auto greedy = [](Drafter& drafter) {
    return drafter.propose({.max_tokens = kDraftTokens, .depth = kDraftTokens, .width = 1});
  };
  require_same(greedy(*some), sequences_in(greedy(*all), index),
               "keep({2, 0}) leaves other sequences, or another order");
  sequences.commit(*some, 6, 9, index);
  sequences.commit(*all, 6, 9);
  require_same(greedy(*some), sequences_in(greedy(*all), index),
               "after keep({2, 0}) commit() goes to other sequences");
  return "two of three sequences go on in another order";
}

}  // namespace outrider::check
