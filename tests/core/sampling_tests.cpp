#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "outrider/decode/acceptance.h"
#include "outrider/decode/draft_tree.h"
#include "outrider/decode/stepwise.h"
#include "outrider/ops/sampler.h"
#include "tensor_checks.h"

namespace outrider::testing::sampling_tests {
namespace {

using decode::AcceptanceRule;
using Tokens = std::vector<int64_t>;

constexpr int64_t kVocabulary = 6, kSamples = 200'000;

// A language of three tokens: what the base and a draft think of the first, and of each next one by
// the token before it.
struct Language {
  at::Tensor first, next;  // [V], [V,V] probabilities
};

Language language(uint64_t seed, double sharpness) {
  return {at::softmax(random({kVocabulary}, seed) * sharpness, 0),
          at::softmax(random({kVocabulary, kVocabulary}, seed + 1) * sharpness, 1)};
}

// Pearson's statistic of tokens that follow each other against the base's distribution, in units of
// its standard deviation above its mean: beyond 5 about once in a million.
double excess(const at::Tensor& counts, const at::Tensor& probabilities) {
  const auto expected = probabilities * counts.sum();
  REQUIRE(expected.min().item<double>() > 5.0);
  const double statistic = ((counts - expected).square() / expected).sum().item<double>();
  const double freedom = static_cast<double>(counts.numel()) - 1.0;
  return (statistic - freedom) / std::sqrt(2.0 * freedom);
}

// Rows of logits, of the base behind the root and behind each node, of so many sequences.
at::Tensor base_logits(const Language& base, const DraftTree& tree) {
  const auto behind = at::log(base.next).index({tree.tokens.clamp_min(0)});
  const auto root = at::log(base.first).expand({tree.tokens.size(0), 1, -1});
  return at::cat({root, behind}, 1);
}

/// How often each pair of tokens begins what is emitted: [V,V].
at::Tensor emitted_pairs(const Language& base, const DraftTree& tree,
                         const decode::Verdict& verdict, Sampler& sampler) {
  const auto count = static_cast<int64_t>(verdict.bonus.size());
  auto pairs = at::zeros({count, 2}, at::kLong);
  auto* out = pairs.mutable_data_ptr<int64_t>();
  const auto tokens = tree.tokens.contiguous();
  const auto* drafted = tokens.const_data_ptr<int64_t>();
  Tokens unfinished;
  for (int64_t b = 0; b < count; ++b) {
    Tokens emitted;
    for (const auto node : verdict.paths[static_cast<size_t>(b)]) {
      emitted.push_back(drafted[b * tokens.size(1) + node]);
    }
    emitted.push_back(verdict.bonus[static_cast<size_t>(b)]);
    out[2 * b] = emitted[0];
    if (emitted.size() > 1) out[2 * b + 1] = emitted[1];
    if (emitted.size() == 1) unfinished.push_back(b);
  }
  const auto index = at::tensor(unfinished, at::kLong);
  const auto before = pairs.select(1, 0).index_select(0, index);
  pairs.select(1, 1).index_copy_(0, index, sampler.draw(base.next.index({before})));
  const auto flat = pairs.select(1, 0) * kVocabulary + pairs.select(1, 1);
  return at::bincount(flat, {}, kVocabulary * kVocabulary).view({kVocabulary, -1}).to(at::kDouble);
}

double excess_of(const Language& base, const DraftTree& tree, AcceptanceRule rule,
                 const SamplingOptions& options = {.temperature = 1.0}) {
  Sampler sampler(options, 77);
  const auto verdict = decode::verify(base_logits(base, tree), tree, sampler, rule);
  const auto pairs = emitted_pairs(base, tree, verdict, sampler);
  return excess(pairs, base.first.unsqueeze(1) * base.next);
}

// Chains of n tokens drawn from the draft.
DraftTree drawn_chain(const Language& draft, int64_t n, uint64_t seed) {
  Sampler sampler({.temperature = 1.0}, seed);
  std::vector<at::Tensor> tokens, q;
  for (int64_t i = 0; i < n; ++i) {
    q.push_back(i == 0 ? draft.first.expand({kSamples, -1}) : draft.next.index({tokens.back()}));
    tokens.push_back(sampler.draw(q.back()));
  }
  return {at::stack(tokens, 1), at::arange(-1, n - 1, at::kLong).expand({kSamples, n}),
          at::stack(q, 1)};
}

// The same tree for everybody: two siblings with children, one of them with a token twice.
DraftTree chosen_tree() {
  const auto row = [](const Tokens& values) {
    return at::tensor(values, at::kLong).expand({kSamples, -1});
  };
  return {row({2, 0, 5, 1, 3, 1, 4}), row({-1, -1, -1, 0, 0, 1, 1}), {}};
}

TEST_CASE("a drawn chain gives the base's distribution, whatever the draft thinks") {
  const auto base = language(1, 1.0);
  for (const double sharpness : {0.0, 1.0, 2.5}) {
    CAPTURE(sharpness);
    const auto tree = drawn_chain(language(5, sharpness), 2, 9);
    CHECK(excess_of(base, tree, AcceptanceRule::kLossless) < 5.0);
  }
  CHECK(excess_of(base, drawn_chain(base, 2, 10), AcceptanceRule::kLossless) < 5.0);
}

TEST_CASE("a draft that lacks tokens changes nothing") {
  const auto base = language(1, 1.0);
  auto draft = language(6, 1.0);
  for (auto* table : {&draft.first, &draft.next}) {
    table->slice(-1, 3).zero_();
    *table = *table / table->sum(-1, true);
  }
  CHECK(excess_of(base, drawn_chain(draft, 2, 11), AcceptanceRule::kLossless) < 5.0);
}

TEST_CASE("chosen siblings are accepted one after the other without a loss") {
  const auto base = language(2, 1.0);
  CHECK(excess_of(base, chosen_tree(), AcceptanceRule::kLossless) < 5.0);
  auto repeated = chosen_tree();
  repeated.tokens = repeated.tokens.clone();
  repeated.tokens.select(1, 2).fill_(2);  // the first sibling's token again
  CHECK(excess_of(base, repeated, AcceptanceRule::kLossless) < 5.0);
  auto chain = drawn_chain(language(3, 1.0), 2, 12);
  chain.q.reset();  // chosen at random, but without regard to the base
  CHECK(excess_of(base, chain, AcceptanceRule::kLossless) < 5.0);
}

TEST_CASE("nodes that a sequence does not have are no rejections") {
  const auto base = language(2, 1.0);
  auto chain = drawn_chain(language(3, 1.5), 2, 13);
  chain.tokens = chain.tokens.clone();
  chain.tokens.slice(0, 0, kSamples / 2).fill_(-1);
  CHECK(excess_of(base, chain, AcceptanceRule::kLossless) < 5.0);
  auto tree = chosen_tree();
  tree.tokens = tree.tokens.clone();
  tree.tokens.select(1, 1).slice(0, 0, kSamples / 3).fill_(-1);
  CHECK(excess_of(base, tree, AcceptanceRule::kLossless) < 5.0);
}

// The same checks find rules that are wrong by little.
TEST_CASE("a rule that loses something is found out") {
  const auto base = language(1, 1.0);
  const auto draft = language(5, 1.0);
  CHECK(excess_of(base, drawn_chain(draft, 2, 9), AcceptanceRule::kTypical) > 50.0);
  CHECK(excess_of(base, chosen_tree(), AcceptanceRule::kTypical) > 50.0);
  auto other_q = drawn_chain(draft, 2, 9);  // as if it were drawn from something a bit flatter
  other_q.q = at::softmax(at::log(other_q.q) * 0.9, 2);
  CHECK(excess_of(base, other_q, AcceptanceRule::kLossless) > 10.0);
  // Without the residual: what follows a rejection is drawn from the base itself.
  Sampler sampler({.temperature = 1.0}, 78);
  const auto tree = drawn_chain(draft, 2, 9);
  auto verdict = decode::verify(base_logits(base, tree), tree, sampler, AcceptanceRule::kLossless);
  const auto again = sampler.draw(base.first.expand({kSamples, -1}));
  for (size_t b = 0; b < verdict.paths.size(); ++b) {
    if (verdict.paths[b].empty()) {
      verdict.bonus[b] = again[static_cast<int64_t>(b)].item<int64_t>();
    }
  }
  const auto pairs = emitted_pairs(base, tree, verdict, sampler);
  CHECK(excess(pairs, base.first.unsqueeze(1) * base.next) > 50.0);
}

TEST_CASE("as much is accepted as the distributions have in common") {
  const auto base = language(1, 1.0), draft = language(5, 1.0);
  Sampler sampler({.temperature = 1.0}, 79);
  const auto share_accepted = [&](const DraftTree& tree) {
    const auto verdict = decode::verify(base_logits(base, tree), tree, sampler);
    const auto accepted = std::count_if(verdict.paths.begin(), verdict.paths.end(),
                                        [](const auto& path) { return !path.empty(); });
    return static_cast<double>(accepted) / kSamples;
  };
  const auto common = at::minimum(base.first, draft.first).sum().item<double>();
  CHECK(std::abs(share_accepted(drawn_chain(draft, 1, 14)) - common) < 0.005);
  const auto siblings = base.first.index({at::tensor(Tokens{2, 0, 5}, at::kLong)});
  CHECK(std::abs(share_accepted(chosen_tree()) - siblings.sum().item<double>()) < 0.005);
}

TEST_CASE("the typical rule keeps the longest path of tokens that are likely enough") {
  // One sequence, V = 3: behind the root tokens 0 and 1 are likely, behind 1 token 2 is certain.
  const auto logits = at::log(at::tensor({0.55, 0.44, 0.01, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0,
                                          1.0, 0.0, 1.0, 0.0},
                                         at::kDouble))
                          .view({1, 5, 3});
  const auto row = [](const Tokens& ids) { return at::tensor(ids, at::kLong).unsqueeze(0); };
  const DraftTree tree{row({0, 1, 1, 2}), row({-1, -1, 0, 1}), {}};
  Sampler sampler({.temperature = 1.0}, 1);
  const auto verdict = decode::verify(logits, tree, sampler, AcceptanceRule::kTypical);
  CHECK(verdict.paths[0] == Tokens{1, 3});
  CHECK(verdict.bonus[0] == 1);
  const DraftTree unlikely{row({2, 2}), row({-1, 0}), {}};
  CHECK(decode::verify(logits.slice(1, 0, 3), unlikely, sampler, AcceptanceRule::kTypical)
            .paths[0]
            .empty());
}

// ---- The sampler --------------------------------------------------------------------------------

at::Tensor probabilities_of(const SamplingOptions& options, std::vector<double> logits) {
  const auto row = at::tensor(at::ArrayRef<double>(logits), at::kDouble).unsqueeze(0);
  return Sampler(options, 0).probabilities(row)[0];
}

at::Tensor values(std::vector<double> numbers) {
  return at::tensor(at::ArrayRef<double>(numbers), at::kDouble);
}

TEST_CASE("temperature, then the likeliest k, then the likeliest of probability p") {
  const std::vector<double> logits{std::log(4.0), std::log(2.0), std::log(1.0), std::log(1.0)};
  CHECK_CLOSE(probabilities_of({.temperature = 1.0}, logits), values({0.5, 0.25, 0.125, 0.125}),
              1e-12);
  CHECK_CLOSE(probabilities_of({.temperature = 0.5}, logits), values({16, 4, 1, 1}) / 22.0, 1e-12);
  CHECK_CLOSE(probabilities_of({.temperature = 1.0, .top_k = 2}, logits),
              values({2, 1, 0, 0}) / 3.0, 1e-12);
  // Tokens that are as likely as the k-th stay, as transformers has it.
  CHECK_CLOSE(probabilities_of({.temperature = 1.0, .top_k = 3}, logits),
              values({0.5, 0.25, 0.125, 0.125}), 1e-12);
  CHECK_CLOSE(probabilities_of({.temperature = 1.0, .top_p = 0.7}, logits),
              values({2, 1, 0, 0}) / 3.0, 1e-12);
  CHECK_CLOSE(probabilities_of({.temperature = 1.0, .top_p = 0.01}, logits), values({1, 0, 0, 0}),
              1e-12);
  // What is left out may be exactly 1 - p.
  CHECK(probabilities_of({.temperature = 1.0, .top_p = 0.5}, {0, 0, 0, 0})
            .gt(0)
            .sum()
            .item<int64_t>() == 2);
  // 0.7 of what top-k leaves: the first is 2/3.
  CHECK_CLOSE(probabilities_of({.temperature = 1.0, .top_k = 2, .top_p = 0.6}, logits),
              values({1, 0, 0, 0}), 1e-12);
  CHECK((Sampler({.temperature = 1.0}, 0)
             .probabilities(at::ones({1, 2}, at::kBFloat16))
             .scalar_type() == at::kFloat));
}

TEST_CASE("what is drawn has the given distribution, and never probability zero") {
  const auto weights = values({0.0, 3.0, 0.0, 1.0, 4.0, 0.0}).to(at::kFloat);
  Sampler sampler({.temperature = 1.0}, 3);
  const auto drawn = sampler.draw(weights.expand({kSamples, -1}));
  const auto counts = at::bincount(drawn, {}, 6).to(at::kDouble);
  CHECK(counts[0].item<double>() + counts[2].item<double>() + counts[5].item<double>() == 0.0);
  const auto index = at::tensor(Tokens{1, 3, 4}, at::kLong);
  CHECK(excess(counts.index({index}), values({3, 1, 4}) / 8.0) < 5.0);
}

TEST_CASE("a sequence with a stream of its own draws what it would draw alone") {
  const auto p = at::softmax(random({3, 50}, 5), 1);
  const std::vector<uint64_t> seeds{7, 8, 9};
  Sampler together({.temperature = 1.0}, seeds);
  std::vector<Sampler> alone;
  for (const auto seed : seeds) alone.emplace_back(SamplingOptions{.temperature = 1.0}, seed);
  const auto check = [&](const std::vector<size_t>& sequences) {
    std::vector<at::Tensor> rows, expected;
    std::vector<double> uniforms;
    for (const auto sequence : sequences) {
      rows.push_back(p[static_cast<int64_t>(sequence)]);
      expected.push_back(alone[sequence].draw(rows.back().unsqueeze(0)));
      const auto more = alone[sequence].uniforms(4);
      uniforms.insert(uniforms.end(), more.begin(), more.end());
    }
    CHECK(together.draw(at::stack(rows)).equal(at::cat(expected)));
    CHECK(together.uniforms(4 * static_cast<int64_t>(sequences.size())) == uniforms);
  };
  for (int i = 0; i < 20; ++i) check({0, 1, 2});
  together.keep({2, 0});
  for (int i = 0; i < 20; ++i) check({2, 0});
  CHECK_THROWS_AS(together.uniforms(3), Error);
}

TEST_CASE("a greedy sampler takes the likeliest token, and wrong options are refused") {
  Sampler greedy({}, 0);
  CHECK(greedy.is_greedy());
  CHECK(greedy.choose(at::tensor({1.0, 3.0, 2.0}, at::kDouble).unsqueeze(0)).item<int64_t>() == 1);
  for (const SamplingOptions& wrong : {SamplingOptions{.temperature = -1.0},
                                       {.temperature = std::nan("")},
                                       {.top_k = -1},
                                       {.top_p = 0.0},
                                       {.top_p = 1.5}}) {
    CHECK_CONTAINS(failure(ErrorCode::kInvalidArgument, [&] { Sampler(wrong, 0); }), "sampling");
  }
}

// ---- Drafts that go step by step ----------------------------------------------------------------

/// A draft whose state is a sum of the tokens so far, the latest weighing most.
struct ToyDraft {
  int64_t calls = 0;

  static at::Tensor logits(const at::Tensor& states) {
    const auto ids = at::arange(kVocabulary, states.options());
    return -((states * 7.3 + ids * 2.1).sin() * 3.0);
  }
  decode::DraftSteps steps(at::Tensor vocabulary = {}) {
    decode::DraftSteps result;
    result.state = values({0.3, 1.7}).view({2, 1, 1});
    result.logits = logits;
    result.advance = [this](const at::Tensor& states, const at::Tensor& tokens,
                            const at::Tensor& seen) {
      ++calls;
      if (seen.defined()) {
        all_seen.push_back(seen);
        all_tokens.push_back(tokens);
      }
      return states * 0.5 + tokens.unsqueeze(2).to(at::kDouble);
    };
    result.vocabulary = std::move(vocabulary);
    result.vocab_size = 20;
    return result;
  }
  std::vector<at::Tensor> all_seen, all_tokens;
};

// What the toy thinks of the tokens after a path: the slow way.
at::Tensor after(double state, const Tokens& path) {
  for (const auto token : path) state = state * 0.5 + static_cast<double>(token);
  return ToyDraft::logits(values({state}).view({1, 1, 1})).flatten();
}

Tokens path_to(const DraftTree& tree, int64_t b, int64_t node) {
  Tokens path;
  for (; node >= 0; node = tree.parents[b][node].item<int64_t>()) {
    path.insert(path.begin(), tree.tokens[b][node].item<int64_t>());
  }
  return path;
}

TEST_CASE("a chain takes the likeliest token of each step") {
  ToyDraft toy;
  const auto tree = decode::draft_stepwise(toy.steps(), {.max_tokens = 4});
  CHECK(toy.calls == 3);
  for (int64_t b = 0; b < 2; ++b) {
    Tokens path;
    for (int64_t i = 0; i < 4; ++i) {
      path.push_back(after(b == 0 ? 0.3 : 1.7, path).argmax().item<int64_t>());
    }
    CHECK(path_to(tree, b, 3) == path);
  }
  CHECK(!tree.q.defined());
}

TEST_CASE("a draft's own vocabulary is told in the base's tokens") {
  ToyDraft toy;
  const auto vocabulary = at::tensor(Tokens{2, 3, 5, 7, 11, 13}, at::kLong);
  Sampler sampler({.temperature = 1.0}, 4);
  const auto tree =
      decode::draft_stepwise(toy.steps(vocabulary), {.max_tokens = 2, .sampler = &sampler});
  CHECK((tree.q.sizes() == at::IntArrayRef{2, 2, 20}));
  CHECK_CLOSE(tree.q.index_select(2, vocabulary).sum(2), at::ones({2, 2}, at::kDouble), 1e-12);
  const auto first = tree.tokens[0][0].item<int64_t>();
  CHECK(at::isin(tree.tokens, vocabulary).all().item<bool>());
  CHECK_CLOSE(tree.q[0][1].index_select(0, vocabulary), at::softmax(after(0.3, {first}), 0), 1e-12);
}

TEST_CASE("a form's nodes have the tokens of their ranks") {
  ToyDraft toy;
  const TreeForm form{{-1, -1, 0, 0, 1, 3, 4, 5}, {0, 2, 0, 1, 0, 1, 3, 0}};
  const auto tree = decode::draft_stepwise(toy.steps(), {.form = &form});
  CHECK(toy.calls == 3);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t i = 0; i < 8; ++i) {
      auto path = path_to(tree, b, i);
      const auto token = path.back();
      path.pop_back();
      const auto order = after(b == 0 ? 0.3 : 1.7, path).argsort(-1, /*descending=*/true);
      CHECK(order[form.ranks[static_cast<size_t>(i)]].item<int64_t>() == token);
      CHECK(tree.parents[b][i].item<int64_t>() == form.parents[static_cast<size_t>(i)]);
    }
  }
}

using Scored = std::pair<double, Tokens>;

void keep_likeliest(std::vector<Scored>& paths, size_t count) {
  std::sort(paths.begin(), paths.end(),
            [](const auto& x, const auto& y) { return x.first > y.first; });
  paths.resize(std::min(count, paths.size()));
}

// EAGLE-2's tree by lists of paths.
std::vector<Tokens> likeliest_paths(double state, int64_t depth, size_t width, size_t nodes) {
  std::vector<Scored> all, frontier{{0.0, {}}};
  for (int64_t level = 0; level < depth; ++level) {
    std::vector<Scored> candidates;
    for (const auto& [score, path] : frontier) {
      const auto log_q = at::log_softmax(after(state, path), 0);
      std::vector<Scored> children;
      for (int64_t token = 0; token < kVocabulary; ++token) {
        children.emplace_back(score + log_q[token].item<double>(), path);
        children.back().second.push_back(token);
      }
      keep_likeliest(children, width);
      candidates.insert(candidates.end(), children.begin(), children.end());
    }
    all.insert(all.end(), candidates.begin(), candidates.end());
    keep_likeliest(candidates, width);
    frontier = candidates;
  }
  keep_likeliest(all, nodes);
  std::vector<Tokens> paths;
  for (const auto& [score, path] : all) paths.push_back(path);
  std::sort(paths.begin(), paths.end());
  return paths;
}

TEST_CASE("a dynamic tree has the likeliest paths") {
  for (const auto& [nodes, depth, width] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {5, 3, 6}, {20, 4, 3}, {9, 2, 2}, {6, 2, 5}}) {
    ToyDraft toy;
    const auto tree =
        decode::draft_stepwise(toy.steps(), {.max_tokens = nodes, .depth = depth, .width = width});
    CHECK(toy.calls == depth - 1);
    for (int64_t b = 0; b < 2; ++b) {
      std::vector<Tokens> found;
      for (int64_t i = 0; i < tree.tokens.size(1); ++i) found.push_back(path_to(tree, b, i));
      std::sort(found.begin(), found.end());
      CHECK(found == likeliest_paths(b == 0 ? 0.3 : 1.7, depth, static_cast<size_t>(width),
                                     static_cast<size_t>(nodes)));
    }
  }
}

TEST_CASE("in a tree each token sees its ancestors among those advanced, and itself") {
  for (const bool dynamic : {true, false}) {
    ToyDraft toy;
    const TreeForm form{{-1, -1, 0, 0, 1, 3, 4, 5}, {0, 2, 0, 1, 0, 1, 3, 0}};
    DraftRequest request{.max_tokens = 20, .depth = 4, .width = 3};
    if (!dynamic) request.form = &form;
    decode::draft_stepwise(toy.steps(), request);
    REQUIRE(toy.all_seen.size() == 3);
    const auto tokens = at::cat(toy.all_tokens, 1);
    int64_t before = 0;
    for (size_t call = 0; call < 3; ++call) {
      const auto& seen = toy.all_seen[call];
      for (int64_t b = 0; b < 2; ++b) {
        for (int64_t row = 0; row < seen.size(1); ++row) {
          const auto rows = seen[b][row].nonzero().flatten();
          CHECK(rows.numel() == static_cast<int64_t>(call) + 1);  // one of each level
          CHECK(rows[-1].item<int64_t>() == before + row);
          for (int64_t i = 0; i + 1 < rows.numel(); ++i) {  // its parent saw the rest
            const auto level_begin = before - toy.all_seen[call - 1].size(1);
            const auto parent = rows[-2].item<int64_t>() - level_begin;
            CHECK(toy.all_seen[call - 1][b][parent][rows[i].item<int64_t>()].item<bool>());
          }
        }
      }
      before += seen.size(1);
    }
    CHECK(tokens.size(1) == before);
  }
}

}  // namespace
}  // namespace outrider::testing::sampling_tests
