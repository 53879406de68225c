#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "check/check.h"
#include "check/mode_runs.h"
#include "generate/session.h"
#include "outrider/decode/decoder.h"
#include "outrider/error.h"
#include "verify/path_checks.h"
#include "verify/step_passes.h"

namespace outrider::check {
namespace {

constexpr double kClose = 1e-4;       // float32 sums in another order
constexpr double kFalseAlarm = 1e-6;  // of all that one check draws
constexpr int64_t kNewTokens = 24, kDraftTokens = 3;

const std::vector<std::vector<int64_t>> kPrompts = {
    {5, 17, 60, 31, 8}, {4}, {9, 8, 7, 6, 5, 4, 3, 2, 1}};

constexpr const char* kNothingDrafted =
    "the draft has no Drafter: it is decoded plainly or with prompt lookup";

Draft& draft_of(CausalLM& model) { return *model.speculative_state().back().draft; }

/// Throws what make_drafter() throws, but for a draft that has none.
std::unique_ptr<Drafter> drafter_of(CausalLM& model) {
  try {
    return draft_of(model).make_drafter();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kUnsupported) return nullptr;
    throw;
  }
}

decode::Decoder drafted_decoder(CausalLM& model) {
  auto& draft = draft_of(model);
  return decode::Decoder(
      model, [&draft] { return draft.make_drafter(); }, draft.hidden_states_needed());
}

std::vector<std::vector<int64_t>> tokens_in(const decode::DecodedBatch& batch) {
  std::vector<std::vector<int64_t>> tokens;
  for (const auto& sequence : batch.sequences) tokens.push_back(sequence.tokens);
  return tokens;
}

/// A draft that says something of what the base goes on with after kPrompts, so that some of what
/// it drafts is accepted and some is not.
std::shared_ptr<CausalLM> half_trained(const ModeSubject& subject) {
  auto model = converted(subject);
  if (!drafter_of(*model)) return nullptr;
  decode::DecodeOptions options;
  options.max_new_tokens = kNewTokens;
  const auto answers = tokens_in(decode::Decoder(*model).run(kPrompts, options));
  std::vector<int64_t> ids;
  for (const auto& answer : answers) ids.insert(ids.end(), answer.begin(), answer.end());
  ForwardInput batch;
  batch.batch.input_ids = at::tensor(ids, at::kLong).view({-1, kNewTokens});
  batch.batch.attention_mask = batch.batch.loss_mask = at::ones_like(batch.batch.input_ids);
  learn(*model, batch, 40);
  model->eval();
  return model;
}

std::string in_a_row(const std::vector<int64_t>& tokens) {
  return fmt::format("{}", fmt::join(tokens, " "));
}

// --- drafting ------------------------------------------------------------------------------------

// Where two tokens are as likely as each other, either is right, and another text follows.
bool is_tie(CausalLM& model, std::vector<int64_t> prompt, const std::vector<int64_t>& plain,
            size_t place, int64_t other) {
  prompt.insert(prompt.end(), plain.begin(), plain.begin() + static_cast<std::ptrdiff_t>(place));
  const auto ids = at::tensor(prompt, at::kLong).unsqueeze(0);
  const auto states = verify::whole_pass(model, ids, {}).last_hidden;
  const auto logits = model.head().logits(states[0].slice(0, -1))[0];
  return (logits[plain[place]] - logits[other]).item<double>() < kClose;
}

void require_same_tokens(CausalLM& model, const std::vector<std::vector<int64_t>>& drafted,
                         const std::vector<std::vector<int64_t>>& plain, const char* shape) {
  for (size_t i = 0; i < plain.size(); ++i) {
    const auto [a, b] = std::ranges::mismatch(drafted[i], plain[i]);
    if (a == drafted[i].end() && b == plain[i].end()) continue;
    const bool both_go_on = a != drafted[i].end() && b != plain[i].end();
    const auto place = static_cast<size_t>(b - plain[i].begin());
    if (both_go_on && is_tie(model, kPrompts[i], plain[i], place, *a)) continue;
    throw Failure(fmt::format("a {} changes greedy decoding from token {} on: {} instead of {}",
                              shape, place, in_a_row(drafted[i]), in_a_row(plain[i])));
  }
}

std::string check_drafting(const ModeSubject& subject) {
  const auto model = half_trained(subject);
  if (!model) return kNothingDrafted;
  decode::DecodeOptions options;
  options.max_new_tokens = kNewTokens;
  const auto plain = tokens_in(decode::Decoder(*model).run(kPrompts, options));
  std::string lengths;
  for (const auto& [shape, name] :
       {std::pair(DraftShape::kChain, "chain"), std::pair(DraftShape::kStaticTree, "static tree"),
        std::pair(DraftShape::kDynamicTree, "dynamic tree")}) {
    const DraftPlan plan({.shape = shape,
                          .tokens = shape == DraftShape::kChain ? kDraftTokens : 8,
                          .depth = 3,
                          .width = 3});
    options.draft = plan.request();
    const auto batch = drafted_decoder(*model).run(kPrompts, options);
    require_same_tokens(*model, tokens_in(batch), plain, name);
    double length = 0.0;
    for (const auto& sequence : batch.sequences) length += sequence.acceptance_length();
    lengths += fmt::format("{}{} {:.2f}", lengths.empty() ? "" : ", ", name,
                           length / static_cast<double>(kPrompts.size()));
  }
  return fmt::format("{} greedy tokens are plain decoding's; per pass of the base: {}",
                     kNewTokens * static_cast<int64_t>(kPrompts.size()), lengths);
}

// --- sampling ------------------------------------------------------------------------------------

/// Sums of bounded differences from their expectations, each a test of its own. By Freedman's
/// inequality a sum of terms below 1 with variances V in all exceeds t with a probability of at
/// most exp(-t² / (2 (V + t/3))).
class DrawTest {
 public:
  explicit DrawTest(int64_t tests)
      : log_chance_(std::log(kFalseAlarm / (2.0 * static_cast<double>(tests)))) {}

  bool is_chance(double sum, double variance) const {
    const double t = std::abs(sum);
    return -t * t / (2.0 * (variance + t / 3.0)) >= log_chance_;
  }

 private:
  double log_chance_;
};

void require_distribution(const at::Tensor& q, const at::Tensor& tokens) {
  const auto sums = q.to(at::kDouble).sum(-1);
  if (!at::isfinite(q).all().item<bool>() || q.lt(0).any().item<bool>() ||
      (sums - 1.0).abs().max().item<double>() > 1e-3) {
    throw Failure("q is no distribution: its rows must be at least 0 and sum to 1");
  }
  const auto drawn = q.gather(-1, tokens.unsqueeze(-1));
  if (drawn.le(0).any().item<bool>())
    throw Failure("a token was drawn that q gives no probability");
}

// Each token as often as q says, all levels of all chains together.
void require_drawn_from(const at::Tensor& q, const at::Tensor& tokens) {
  require_distribution(q, tokens);
  const auto p = q.to(at::kDouble).flatten(0, 1);
  const auto hits = at::one_hot(tokens.flatten(), p.size(1)).to(at::kDouble);
  const auto sums = (hits - p).sum(0), variances = (p * (1.0 - p)).sum(0);
  // Whether likelier tokens come more often than they should, or less.
  const auto square = p.square().sum(1);
  const auto sharper = (p * hits).sum(1) - square;
  const auto variance = (p.pow(3).sum(1) - square.square()).sum().item<double>();
  const DrawTest test(p.size(1) + 1);
  if (!test.is_chance(sharper.sum().item<double>(), variance)) {
    throw Failure(fmt::format("tokens are not drawn from q: likely ones come {} often than it says",
                              sharper.sum().item<double>() > 0 ? "more" : "less"));
  }
  for (int64_t v = 0; v < p.size(1); ++v) {
    const auto sum = sums[v].item<double>();
    if (test.is_chance(sum, variances[v].item<double>())) continue;
    throw Failure(
        fmt::format("tokens are not drawn from q: token {} came {:.0f} times, expected {:.0f}", v,
                    hits.select(1, v).sum().item<double>(), p.select(1, v).sum().item<double>()));
  }
}

constexpr int64_t kSequences = 512, kRepetitions = 8;

BaseOutputs repeated(BaseOutputs outputs, int64_t batch) {
  const auto expand = [batch](at::Tensor& x) {
    if (x.defined()) x = x.expand({batch, -1, -1}).contiguous();
  };
  expand(outputs.input_embeddings);
  expand(outputs.last_hidden);
  expand(outputs.last_hidden_prenorm);
  for (auto& [layer, states] : outputs.layer_outputs) expand(states);
  return outputs;
}

// Returns how many tokens were drawn; nothing for a drafter that draws from no distribution.
int64_t check_draws(CausalLM& model) {
  const auto ids = at::tensor(kPrompts.front(), at::kLong).unsqueeze(0);
  const auto rows = ids.size(1) - 1;
  const auto base =
      verify::whole_pass(model, ids.slice(1, 0, rows), draft_of(model).hidden_states_needed());
  const c10::InferenceMode inference;
  const auto drafter = drafter_of(model);
  drafter->prefill(repeated(base, kSequences), ids.slice(1, 1).expand({kSequences, -1}));
  Sampler sampler({.temperature = 1.0}, /*seed=*/11);
  std::vector<at::Tensor> q, tokens;
  for (int64_t i = 0; i < kRepetitions; ++i) {
    const auto tree =
        drafter->propose({.max_tokens = 2, .depth = 2, .width = 1, .sampler = &sampler});
    if (!tree.q.defined()) return 0;
    q.push_back(tree.q);
    tokens.push_back(tree.tokens);
  }
  require_drawn_from(at::cat(q), at::cat(tokens));
  return kSequences * kRepetitions * tokens.front().size(1);
}

// What the base alone says of the second token after a prompt, whatever the first one is: [V].
at::Tensor second_token(CausalLM& model, const std::vector<int64_t>& prompt, double temperature) {
  const auto vocabulary = model.config().vocab_size;
  const auto probabilities = [&](const at::Tensor& ids) {
    const auto states = verify::whole_pass(model, ids, {}).last_hidden.slice(1, -1).squeeze(1);
    return at::softmax(model.head().logits(states).to(at::kDouble) / temperature, 1);
  };
  const auto ids = at::tensor(prompt, at::kLong).unsqueeze(0);
  const auto next = at::arange(vocabulary, at::kLong).unsqueeze(1);
  const auto first = probabilities(ids);
  return at::matmul(first, probabilities(at::cat({ids.expand({vocabulary, -1}), next}, 1)))[0];
}

// Of decoding with the draft, the first token that it may have changed.
void check_decoded(CausalLM& model) {
  constexpr double kTemperature = 0.7;
  const auto& prompt = kPrompts.front();
  const auto p = second_token(model, prompt, kTemperature);
  const DraftPlan plan({.shape = DraftShape::kChain, .tokens = 2});
  decode::DecodeOptions options;
  options.max_new_tokens = 2;
  options.sampling.temperature = kTemperature;
  options.draft = plan.request();
  auto counts = at::zeros_like(p);
  for (int64_t i = 0; i < kRepetitions; ++i) {
    options.seed = static_cast<uint64_t>(100 + i);
    const std::vector<std::vector<int64_t>> prompts(static_cast<size_t>(kSequences), prompt);
    for (const auto& tokens : tokens_in(drafted_decoder(model).run(prompts, options))) {
      counts[tokens[1]] += 1;
    }
  }
  const double drawn = static_cast<double>(kSequences * kRepetitions);
  const DrawTest test(p.size(0));
  for (int64_t v = 0; v < p.size(0); ++v) {
    const auto expected = p[v].item<double>(), count = counts[v].item<double>();
    if (test.is_chance(count - drawn * expected, drawn * expected * (1.0 - expected))) continue;
    throw Failure(
        fmt::format("with a draft token {} comes {:.0f} times in {:.0f}, the base alone "
                    "draws it {:.0f} times",
                    v, count, drawn, drawn * expected));
  }
}

std::string check_sampling(const ModeSubject& subject) {
  const auto model = half_trained(subject);
  if (!model) return kNothingDrafted;
  const auto vocabulary = model->config().vocab_size;
  if (vocabulary > 4096) throw Skip("for small vocabularies: leave --base out");
  const auto drawn = check_draws(*model);
  check_decoded(*model);
  return fmt::format("{} drawn tokens follow q, {} decoded ones the base's distribution", drawn,
                     kSequences * kRepetitions);
}

// --- what a drafter remembers --------------------------------------------------------------------

BaseOutputs rows_of(BaseOutputs outputs, int64_t begin, int64_t end) {
  const auto cut = [&](at::Tensor& x) {
    if (x.defined()) x = x.slice(1, begin, end);
  };
  cut(outputs.input_embeddings);
  cut(outputs.last_hidden);
  cut(outputs.last_hidden_prenorm);
  for (auto& [layer, states] : outputs.layer_outputs) cut(states);
  return outputs;
}

BaseOutputs sequences_of(BaseOutputs outputs, const at::Tensor& index) {
  const auto take = [&](at::Tensor& x) {
    if (x.defined()) x = x.index_select(0, index);
  };
  take(outputs.input_embeddings);
  take(outputs.last_hidden);
  take(outputs.last_hidden_prenorm);
  for (auto& [layer, states] : outputs.layer_outputs) take(states);
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
    const DraftPlan plan({.shape = shape,
                          .tokens = shape == DraftShape::kChain ? kDraftTokens : 8,
                          .depth = 3,
                          .width = 3});
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

DraftTree sequences_in(const DraftTree& tree, const at::Tensor& index) {
  return {tree.tokens.index_select(0, index), tree.parents.index_select(0, index),
          tree.q.defined() ? tree.q.index_select(0, index) : tree.q};
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

std::string check_train_serve(const ModeSubject& subject) {
  const auto model = half_trained(subject);
  if (!model) return kNothingDrafted;
  const auto ids = some_tokens(1, 24, model->config().vocab_size, 43);
  auto& draft = draft_of(*model);
  const auto result = verify::check_draft_paths("train_serve", *model, draft, draft, ids).front();
  if (result.outcome == verify::Outcome::kSkipped) throw Skip(result.detail);
  if (result.outcome == verify::Outcome::kDiffers) {
    throw Failure(result.cause + ": " + result.detail);
  }
  return fmt::format("{}: the Drafter says what loss() trains, within {:.1g}", result.detail,
                     *result.figure);
}

constexpr ModeCheck kDecodingChecks[] = {
    {"train_serve", "its Drafter says step by step what the loss trains", check_train_serve},
    {"drafting", "greedy decoding with chains and trees gives the tokens of plain decoding",
     check_drafting},
    {"sampling", "tokens are drawn from q, and decoded ones from the base's distribution",
     check_sampling},
    {"draft_order", "proposing twice, and committing without proposing, changes nothing",
     check_order},
    {"rollback", "rejected proposals leave no trace", check_rollback},
    {"keep", "the sequences that go on are those that were named, in their order", check_keep}};

}  // namespace

std::span<const ModeCheck> decoding_checks() { return kDecodingChecks; }

}  // namespace outrider::check
