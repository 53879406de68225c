#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "outrider/decode/decoder.h"
#include "outrider/decode/draft_tree.h"
#include "outrider/decode/prompt_lookup.h"
#include "outrider/decode/stepwise.h"
#include "outrider/model/llama.h"
#include "tensor_checks.h"

namespace outrider::testing::decode_tests {
namespace {

using Tokens = std::vector<int64_t>;

constexpr int64_t kVocabulary = 17;

std::shared_ptr<LlamaForCausalLM> base() {
  const auto config = ModelConfig::from_json({{"architectures", {"LlamaForCausalLM"}},
                                              {"vocab_size", kVocabulary},
                                              {"hidden_size", 8},
                                              {"intermediate_size", 12},
                                              {"num_hidden_layers", 2},
                                              {"num_attention_heads", 2},
                                              {"num_key_value_heads", 1}},
                                             "config.json");
  auto model = std::make_shared<LlamaForCausalLM>(config, at::TensorOptions(at::kDouble));
  const at::NoGradGuard no_grad;
  uint64_t seed = 40;
  for (auto& parameter : model->parameters()) parameter.copy_(random(parameter.sizes(), ++seed));
  return model;
}

// The slow way: the whole sequence again for each token.
Tokens greedy(CausalLM& model, Tokens sequence, int64_t count, const Tokens& stops = {}) {
  const at::NoGradGuard no_grad;
  Tokens found;
  while (static_cast<int64_t>(found.size()) < count) {
    ForwardInput input;
    input.batch.input_ids = at::tensor(sequence, at::kLong).unsqueeze(0);
    input.want_logits = true;
    const auto token = model.forward(input).logits[0][-1].argmax().item<int64_t>();
    found.push_back(token);
    sequence.push_back(token);
    if (std::count(stops.begin(), stops.end(), token)) break;
  }
  return found;
}

const std::vector<Tokens> kPrompts{{1, 2, 3}, {4}, {5, 6, 7, 8, 9, 10, 11}, {2, 2}};

/// Knows how the base goes on, and proposes that at random places of a tree of random tokens.
class Oracle : public Drafter {
 public:
  Oracle(CausalLM& base, double knows) : base_(base), knows_(knows) { at::manual_seed(3); }

  void prefill(const BaseOutputs& accepted, const at::Tensor& tokens) override {
    sequences.assign(static_cast<size_t>(tokens.size(0)), {});
    for (size_t b = 0; b < sequences.size(); ++b) sequences[b] = {kPrompts[b].front()};
    commit(accepted, tokens);
  }

  void commit(const BaseOutputs& accepted, const at::Tensor& tokens) override {
    CHECK(accepted.last_hidden.size(1) == tokens.size(1));
    for (size_t b = 0; b < sequences.size(); ++b) {
      for (int64_t i = 0; i < tokens.size(1); ++i) {
        const auto token = tokens[static_cast<int64_t>(b)][i].item<int64_t>();
        if (token >= 0) sequences[b].push_back(token);
      }
    }
    last_accepted = accepted;
    last_tokens = tokens;
  }

  void keep(const std::vector<int64_t>& rows) override {
    std::vector<Tokens> kept;
    for (const auto b : rows) kept.push_back(sequences[static_cast<size_t>(b)]);
    sequences = kept;
  }

  DraftTree propose(const DraftRequest& request) override {
    const auto batch = static_cast<int64_t>(sequences.size());
    const int64_t count = request.max_tokens;
    DraftTree tree{
        at::full({batch, count}, -1, at::kLong), at::full({batch, count}, -1, at::kLong), {}};
    for (int64_t b = 0; b < batch; ++b) {
      const auto known = greedy(base_, sequences[static_cast<size_t>(b)], count + 1);
      std::vector<Tokens> paths;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t parent = request.width == 1 ? i - 1 : at::randint(-1, i, {1}).item<int64_t>();
        auto path = parent < 0 ? Tokens{} : paths[static_cast<size_t>(parent)];
        const bool right = at::rand({1}).item<double>() < knows_;
        path.push_back(right ? known[path.size()] : at::randint(-1, 17, {1}).item<int64_t>());
        paths.push_back(path);
        tree.tokens[b][i] = path.back();
        tree.parents[b][i] = parent;
      }
    }
    return tree;
  }

  std::vector<Tokens> sequences;
  BaseOutputs last_accepted;
  at::Tensor last_tokens;

 private:
  CausalLM& base_;
  double knows_;
};

decode::DecodedBatch decoded(CausalLM& model, const decode::DecodeOptions& options,
                             const decode::Decoder::DrafterFactory& drafters = {}) {
  return decode::Decoder(model, drafters).run(kPrompts, options);
}

void check_greedy(CausalLM& model, const decode::DecodedBatch& batch, int64_t count,
                  const Tokens& stops = {}) {
  for (size_t b = 0; b < kPrompts.size(); ++b) {
    const auto expected = greedy(model, kPrompts[b], count, stops);
    CHECK(batch.sequences[b].tokens == expected);
    const bool stopped = std::count(stops.begin(), stops.end(), expected.back()) > 0;
    CHECK(batch.sequences[b].stopped == stopped);
  }
}

TEST_CASE("plain decoding is a greedy loop over whole passes") {
  const auto model = base();
  decode::DecodeOptions options{.max_new_tokens = 24};
  auto batch = decoded(*model, options);
  check_greedy(*model, batch, 24);
  CHECK(batch.sequences[0].rounds == 23);
  CHECK(batch.sequences[0].acceptance_length() == 1.0);
  options.stop_tokens = {batch.sequences[2].tokens[5], batch.sequences[0].tokens[9]};
  batch = decoded(*model, options);
  check_greedy(*model, batch, 24, options.stop_tokens);
}

/// Goes on by itself, as bases on a GPU do, and counts the steps.
class Unattended : public CausalLM {
 public:
  explicit Unattended(std::shared_ptr<LlamaForCausalLM> other)
      : CausalLM(other->config()), other_(register_module("other", std::move(other))) {}

  BaseOutputs run_base(const BasePass& pass) override { return other_->run_base(pass); }
  void drop_decoder_layers() override { other_->drop_decoder_layers(); }
  const LmHead& head() const override { return other_->head(); }
  at::Tensor final_norm(const at::Tensor& hidden) const override {
    return other_->final_norm(hidden);
  }
  std::optional<at::Tensor> continue_greedily(nn::KvCache& cache, const at::Tensor& ids,
                                              int64_t steps) override {
    std::vector<at::Tensor> tokens{ids};
    for (int64_t i = 0; i < steps; ++i) {
      const auto outputs =
          run_base({.input_ids = tokens.back(), .request = {.last_hidden = true}, .cache = &cache});
      cache.commit(std::vector<int64_t>(cache.lengths().size(), 1));
      tokens.push_back(head().logits(outputs.last_hidden).argmax(-1));
    }
    steps_made += steps * ids.size(0);
    return at::cat(tokens, 1).slice(1, 1);
  }

  int64_t steps_made = 0;

 private:
  std::shared_ptr<LlamaForCausalLM> other_;
};

TEST_CASE("a base that goes on by itself decodes to the same tokens, with few steps for nothing") {
  const auto plain = base();
  const auto model = std::make_shared<Unattended>(plain);
  for (const int64_t count : {1, 2, 8, 9, 24, 45}) {
    CAPTURE(count);
    model->steps_made = 0;
    decode::DecodeOptions options{.max_new_tokens = count};
    auto batch = decoded(*model, options);
    check_greedy(*plain, batch, count);
    const auto prompts = static_cast<int64_t>(kPrompts.size());
    CHECK(model->steps_made == prompts * (count - 1));
    if (count < 10) continue;
    model->steps_made = 0;
    options.stop_tokens = {batch.sequences[2].tokens[5], batch.sequences[0].tokens[9]};
    batch = decoded(*model, options);
    check_greedy(*plain, batch, count, options.stop_tokens);
    int64_t needed = 0;
    for (const auto& sequence : batch.sequences) needed += sequence.rounds;
    CHECK(model->steps_made - needed < 16 * prompts);
  }
}

TEST_CASE("whatever is drafted, greedy tokens are those of plain decoding") {
  const auto model = base();
  for (const double knows : {0.0, 0.5, 0.9, 1.0}) {
    for (const int64_t width : {1, 3}) {
      CAPTURE(knows);
      CAPTURE(width);
      decode::DecodeOptions options{.max_new_tokens = 20, .stop_tokens = {3}};
      options.draft = {.max_tokens = 5, .depth = 5, .width = width};
      const auto batch =
          decoded(*model, options, [&] { return std::make_unique<Oracle>(*model, knows); });
      check_greedy(*model, batch, 20, {3});
    }
  }
}

TEST_CASE("statistics are those of what was drafted and accepted") {
  const auto model = base();
  decode::DecodeOptions options{.max_new_tokens = 19};
  options.draft.max_tokens = 5;
  const auto batch =
      decoded(*model, options, [&] { return std::make_unique<Oracle>(*model, 1.0); });
  for (const auto& sequence : batch.sequences) {
    CHECK(sequence.rounds == 3);  // 1 + 3 · 6
    CHECK(sequence.acceptance_length() == 6.0);
    CHECK(sequence.drafted == Tokens{3, 3, 3, 3, 3});
    CHECK(sequence.accepted == Tokens{3, 3, 3, 3, 3});
  }
}

TEST_CASE("a drafter is given the base's rows of the tokens that stay") {
  const auto model = base();
  for (const int64_t width : {1, 3}) {
    Oracle* drafter = nullptr;
    decode::DecodeOptions options{.max_new_tokens = 14};
    options.draft = {.max_tokens = 4, .depth = 4, .width = width};
    int64_t checked = 0;
    options.on_tokens = [&](size_t sequence, const Tokens&) {
      if (sequence != 0 || drafter->sequences.size() != kPrompts.size()) return;
      const at::NoGradGuard no_grad;
      for (size_t b = 0; b < drafter->sequences.size(); ++b) {
        auto ids = drafter->sequences[b];
        ids.pop_back();  // the base has not read it
        const auto expected =
            model->run_base({at::tensor(ids, at::kLong).unsqueeze(0), {}, {}, {}}).last_hidden[0];
        const auto& rows = drafter->last_accepted.last_hidden[static_cast<int64_t>(b)];
        const auto count =
            drafter->last_tokens[static_cast<int64_t>(b)].ge(0).sum().item<int64_t>();
        CHECK_CLOSE(rows.slice(0, 0, count), expected.slice(0, -count), 1e-10);
        ++checked;
      }
    };
    decode::Decoder(*model, [&] {
      auto made = std::make_unique<Oracle>(*model, 0.8);
      drafter = made.get();
      return made;
    }).run(kPrompts, options);
    CHECK(checked > 8);
  }
}

TEST_CASE("prompt lookup proposes what followed the longest latest match") {
  const auto drafter = decode::prompt_lookup(3);
  const auto row = [](const std::vector<Tokens>& rows) {
    std::vector<at::Tensor> tensors;
    for (const auto& tokens : rows) tensors.push_back(at::tensor(tokens, at::kLong));
    return at::stack(tensors);
  };
  drafter->prefill({}, row({{1, 2, 3, 4, 9, 3, 5, 1, 2, 3},
                            {7, 8, 7, 9, 7, -1, -1, -1, -1, -1},
                            {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}));
  auto tree = drafter->propose({.max_tokens = 3});
  CHECK(tree.tokens.equal(row({{4, 9, 3}, {9, 7, -1}, {-1, -1, -1}})));
  CHECK(tree.parents.equal(row({{-1, 0, 1}, {-1, 0, 1}, {-1, 0, 1}})));
  const auto form = decode::likely_form(6, 2, 3);
  CHECK(drafter->propose({.form = &form}).tokens.size(1) == 2);
  CHECK(drafter->propose({.max_tokens = 9, .depth = 4, .width = 2}).tokens.size(1) == 4);
  drafter->commit({}, row({{5, -1}, {8, 7}, {11, 1}}));
  drafter->keep({2, 0});
  tree = drafter->propose({.max_tokens = 2});
  CHECK(tree.tokens.equal(row({{2, 3}, {1, 2}})));  // the latest 3 5 goes on with 1
}

TEST_CASE("prompt lookup decodes to the same tokens") {
  const auto model = base();
  decode::DecodeOptions options{.max_new_tokens = 40};
  options.draft.max_tokens = 4;
  const auto batch = decoded(*model, options, [] { return decode::prompt_lookup(); });
  check_greedy(*model, batch, 40);
  CHECK(batch.sequences[0].acceptance_length() > 1.5);  // a tiny model soon repeats itself
}

TEST_CASE("a seed decides what is drawn") {
  const auto model = base();
  decode::DecodeOptions options{.max_new_tokens = 12, .sampling = {.temperature = 2.0}, .seed = 5};
  const auto tokens = [&] { return decoded(*model, options).sequences[2].tokens; };
  const auto first = tokens();
  CHECK(tokens() == first);
  options.seed = 6;
  CHECK(tokens() != first);
}

/// Its opinion of the next token depends on the token before it alone.
class TableDrafter : public Drafter {
 public:
  explicit TableDrafter(uint64_t seed) : table_(random({kVocabulary, kVocabulary}, seed)) {}

  void prefill(const BaseOutputs& accepted, const at::Tensor& tokens) override {
    commit(accepted, tokens);
  }
  void commit(const BaseOutputs&, const at::Tensor& tokens) override {
    last_ = tokens.gather(1, tokens.ge(0).sum(1, true) - 1);
  }
  void keep(const Tokens& sequences) override {
    last_ = last_.index_select(0, at::tensor(sequences, at::kLong));
  }
  DraftTree propose(const DraftRequest& request) override {
    return decode::draft_stepwise(
        {.state = last_.unsqueeze(2),
         .logits = [&](const at::Tensor& states) { return table_.index({states.squeeze(2)}); },
         .advance = [](const at::Tensor&, const at::Tensor& tokens,
                       const at::Tensor&) { return tokens.unsqueeze(2); },
         .vocab_size = kVocabulary},
        request);
  }

 private:
  at::Tensor table_, last_;
};

// Of the base, after a prompt: every pair of tokens that may follow, [V,V].
at::Tensor pair_probabilities(CausalLM& model, const Tokens& prompt, double temperature) {
  const at::NoGradGuard no_grad;
  const auto next = [&](const Tokens& sequence) {
    ForwardInput input;
    input.batch.input_ids = at::tensor(sequence, at::kLong).unsqueeze(0);
    input.want_logits = true;
    return at::softmax(model.forward(input).logits[0][-1] / temperature, 0);
  };
  const auto first = next(prompt);
  std::vector<at::Tensor> rows;
  for (int64_t token = 0; token < kVocabulary; ++token) {
    auto longer = prompt;
    longer.push_back(token);
    rows.push_back(first[token] * next(longer));
  }
  return at::stack(rows);
}

// Pearson's statistic above its mean, in its standard deviations; rare cells count as one.
double chi_square_excess(const at::Tensor& counts, const at::Tensor& probabilities) {
  const auto expected = probabilities * counts.sum();
  const auto rare = expected.lt(5.0);
  const auto lumped = [&](const at::Tensor& x) {
    return at::cat({x.masked_select(at::logical_not(rare)), x.masked_select(rare).sum().view({1})});
  };
  const auto e = lumped(expected), n = lumped(counts);
  const double freedom = static_cast<double>(e.numel()) - 1.0;
  const double statistic = ((n - e).square() / e.clamp_min(1e-9)).sum().item<double>();
  return (statistic - freedom) / std::sqrt(2.0 * freedom);
}

double excess_of_runs(CausalLM& model, DraftRequest draft, decode::AcceptanceRule rule,
                      const decode::Decoder::DrafterFactory& drafters) {
  const Tokens prompt{1, 2, 3, 1, 2};
  const std::vector<Tokens> prompts(10'000, prompt);
  auto counts = at::zeros({kVocabulary, kVocabulary}, at::kDouble);
  auto count = counts.accessor<double, 2>();
  for (uint64_t seed = 0; seed < 6; ++seed) {
    decode::DecodeOptions options{.max_new_tokens = 2,
                                  .sampling = {.temperature = 2.5},
                                  .seed = seed,
                                  .draft = draft,
                                  .rule = rule};
    for (const auto& sequence : decode::Decoder(model, drafters).run(prompts, options).sequences) {
      count[sequence.tokens[0]][sequence.tokens[1]] += 1.0;
    }
  }
  return chi_square_excess(counts, pair_probabilities(model, prompt, 2.5));
}

TEST_CASE("whole runs draw as the base does, however they are drafted") {
  const auto model = base();
  const auto table = [] { return std::make_unique<TableDrafter>(60); };
  const auto form = decode::likely_form(5, 2, 3);
  const auto lossless = decode::AcceptanceRule::kLossless;
  const DraftRequest chain{.max_tokens = 2}, fixed{.form = &form},
      dynamic{.max_tokens = 5, .depth = 2, .width = 3};
  CHECK(excess_of_runs(*model, chain, lossless, {}) < 5.0);
  CHECK(excess_of_runs(*model, chain, lossless, table) < 5.0);
  CHECK(excess_of_runs(*model, fixed, lossless, table) < 5.0);
  CHECK(excess_of_runs(*model, dynamic, lossless, table) < 5.0);
  CHECK(excess_of_runs(*model, chain, lossless, [] { return decode::prompt_lookup(); }) < 5.0);
  CHECK(excess_of_runs(*model, fixed, decode::AcceptanceRule::kTypical, table) > 20.0);
}

TEST_CASE("prompts that cannot be read are refused in words") {
  const auto model = base();
  const auto refused = [&](std::vector<Tokens> prompts) {
    return failure(ErrorCode::kInvalidArgument,
                   [&] { decode::Decoder(*model).run(prompts, {.max_new_tokens = 1}); });
  };
  CHECK_CONTAINS(refused({{1}, {}}), "prompt 2 has no tokens");
  CHECK_CONTAINS(refused({{1, 17}}), "prompt 1: token 17 is outside the vocabulary of 17");
}

TEST_CASE("forms of trees") {
  const auto chain = decode::likely_form(4, 4, 1);
  CHECK(chain.parents == Tokens{-1, 0, 1, 2});
  CHECK(chain.ranks == Tokens{0, 0, 0, 0});
  // 0.6, then 0.36 below it, then the second of the first level, 0.24.
  const auto tree = decode::likely_form(3, 4, 2);
  CHECK(tree.parents == Tokens{-1, -1, 0});
  CHECK(tree.ranks == Tokens{0, 1, 0});
  CHECK(decode::levels_of(tree) == std::vector<Tokens>{{0, 1}, {2}});
  CHECK(decode::likely_form(100, 2, 2).parents.size() == 6);
}

TEST_CASE("the likeliest candidates make a connected tree") {
  const auto ids = [](Tokens tokens) { return at::tensor(tokens, at::kLong).unsqueeze(0); };
  const auto scores = [](std::vector<double> log_q) {
    return at::tensor(log_q, at::kDouble).unsqueeze(0);
  };
  const std::vector<decode::CandidateLevel> levels{
      {ids({10, 11}), scores({-1.0, -2.0}), {}},
      {ids({20, 21, 22, 23}), scores({-1.5, -4.0, -2.0, -9.0}), ids({0, 0, 1, 1})},
      {ids({30, 31}), scores({-1.5, -2.5}), ids({0, 2})}};
  const auto tree = decode::likeliest_tree(levels, 5);
  CHECK(tree.tokens.equal(ids({10, 11, 20, 22, 30})));
  CHECK(tree.parents.equal(ids({-1, -1, 0, 1, 2})));
  CHECK(decode::likeliest_tree(levels, 50).parents.equal(ids({-1, -1, 0, 0, 1, 1, 2, 4})));
}

}  // namespace
}  // namespace outrider::testing::decode_tests
