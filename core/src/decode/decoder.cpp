#include "outrider/decode/decoder.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "outrider/decode/draft_tree.h"
#include "outrider/error.h"
#include "outrider/kernels/recorded_work.h"
#include "outrider/nn/kv_cache.h"

namespace outrider::decode {
namespace {

using Rows = std::vector<std::vector<int64_t>>;

constexpr int64_t kNone = -1;

// Adds the time of its life to `seconds`.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// [B,n], with `padding` behind shorter rows.
at::Tensor padded(const Rows& rows, int64_t padding, at::Device device) {
  size_t width = 0;
  for (const auto& row : rows) width = std::max(width, row.size());
  std::vector<int64_t> values;
  for (const auto& row : rows) {
    values.insert(values.end(), row.begin(), row.end());
    values.resize(values.size() + width - row.size(), padding);
  }
  return at::tensor(values, at::kLong)
      .view({static_cast<int64_t>(rows.size()), -1})
      .to(device, /*non_blocking=*/true);
}

// A [B,n] tensor of integers as rows.
Rows rows_of(const at::Tensor& tensor) {
  const auto values = tensor.to(at::kCPU).contiguous();
  Rows rows;
  for (int64_t b = 0; b < values.size(0); ++b) {
    const auto* first = values.const_data_ptr<int64_t>() + b * values.size(1);
    rows.emplace_back(first, first + values.size(1));
  }
  return rows;
}

// x [B,n,h] at index [B,m] → [B,m,h].
at::Tensor gathered(const at::Tensor& x, const at::Tensor& index) {
  return x.gather(1, index.unsqueeze(2).expand({-1, -1, x.size(2)}));
}

BaseOutputs gathered(BaseOutputs outputs, const at::Tensor& index) {
  for (auto* states : hidden_states_of(outputs)) *states = gathered(*states, index);
  return outputs;
}

// Of answers that are usual in length, trees included, and of finished ones where they go on.
int64_t expected_rows(const Rows& prompts, const DecodeOptions& options, bool finished_go_on) {
  constexpr int64_t kUsualAnswer = 1024, kGrain = 64;
  size_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
  const int64_t answer = std::min(options.max_new_tokens, kUsualAnswer);
  const int64_t rows = static_cast<int64_t>(longest) + options.draft.max_tokens + answer +
                       (finished_go_on && prompts.size() > 1 ? answer / 2 : 0);
  return (rows + kGrain) / kGrain * kGrain;
}

void check_prompts(const Rows& prompts, int64_t vocabulary) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) {
      throw Error(ErrorCode::kInvalidArgument, fmt::format("prompt {} has no tokens", i + 1));
    }
    for (const int64_t token : prompts[i]) {
      if (token >= 0 && token < vocabulary) continue;
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("prompt {}: token {} is outside the vocabulary of {}", i + 1, token,
                              vocabulary));
    }
  }
}

Sampler sampler_of(const DecodeOptions& options) {
  return options.seeds.empty() ? Sampler(options.sampling, options.seed)
                               : Sampler(options.sampling, options.seeds);
}

// Rows 0, 1, … of all sequences, which may have fewer.
bool follow_each_other(const Rows& rows) {
  return std::ranges::all_of(rows, [](const std::vector<int64_t>& row) {
    return row.back() == static_cast<int64_t>(row.size()) - 1;
  });
}

BaseOutputs first_rows(BaseOutputs outputs, int64_t count) {
  for (auto* states : hidden_states_of(outputs)) *states = states->slice(1, 0, count);
  return outputs;
}

/// What a base makes by itself while the host looks at what came before.
class TokensUnderWay {
 public:
  /// tokens [B,n] of these sequences.
  TokensUnderWay(std::vector<size_t> sequences, const at::Tensor& tokens)
      : sequences_(std::move(sequences)),
        last_(tokens.slice(1, -1)),
        tokens_(tokens.to(at::kCPU, /*non_blocking=*/true)) {
    if (tokens.is_cpu()) return;
    arrived_.emplace(tokens.device().type());
    arrived_->record(
        c10::impl::VirtualGuardImpl(tokens.device().type()).getStream(tokens.device()));
  }

  const std::vector<size_t>& sequences() const { return sequences_; }
  int64_t count() const { return tokens_.size(1); }
  /// [B,1], where they were made.
  const at::Tensor& last() const { return last_; }
  /// Of some of the sequences, in their order. Waits until they are there.
  Rows of(const std::vector<size_t>& sequences) const {
    if (arrived_) arrived_->synchronize();
    const auto all = rows_of(tokens_);
    Rows rows;
    for (size_t b = 0; b < all.size(); ++b) {
      if (std::ranges::find(sequences, sequences_[b]) != sequences.end()) rows.push_back(all[b]);
    }
    return rows;
  }

 private:
  std::vector<size_t> sequences_;
  at::Tensor last_, tokens_;
  std::optional<c10::Event> arrived_;
};

/// The sequences of one batch, and what base and drafter know of them. On a GPU finished ones go on
/// with the others, for nothing, until they are half of all: what is recorded is for so many.
class Generation {
 public:
  Generation(CausalLM& base, nn::KvCache& cache, Drafter* drafter, HiddenStateRequest request,
             const Rows& prompts, const DecodeOptions& options)
      : base_(base),
        drafter_(drafter),
        request_(std::move(request)),
        options_(options),
        sampler_(sampler_of(options)),
        cache_(cache),
        last_(prompts.size(), kNone) {
    result_.sequences.resize(prompts.size());
    for (size_t i = 0; i < prompts.size(); ++i) numbers_.push_back(i);
    cache_.expect(expected_rows(prompts, options, finished_go_on()));
    read(prompts);
  }

  DecodedBatch finish() {
    while (!numbers_.empty()) {
      if (!go_on_plainly()) round();
    }
    return std::move(result_);
  }

 private:
  BaseOutputs run_base(const at::Tensor& ids, const at::Tensor& tree_mask) {
    return base_.run_base({.input_ids = ids,
                           .position_ids = {},
                           .key_mask = {},
                           .request = request_,
                           .cache = &cache_,
                           .tree_mask = tree_mask});
  }

  void read(const Rows& prompts) {
    const Stopwatch watch(result_.prompt_seconds);
    const auto ids = padded(prompts, 0, base_.device());
    const auto outputs = run_base(ids, {});
    std::vector<int64_t> lengths, last_rows;
    Rows following;
    for (const auto& prompt : prompts) {
      lengths.push_back(static_cast<int64_t>(prompt.size()));
      last_rows.push_back(lengths.back() - 1);
      following.emplace_back(prompt.begin() + 1, prompt.end());
    }
    cache_.commit(lengths);
    const auto index = at::tensor(last_rows, at::kLong).to(ids.device()).unsqueeze(1);
    const auto logits = base_.head().logits(gathered(outputs.last_hidden, index).squeeze(1));
    const auto news = rows_of(sampler_.choose(logits).unsqueeze(1));
    for (size_t b = 0; b < prompts.size(); ++b) following[b].push_back(news[b].front());
    if (drafter_) drafter_->prefill(outputs, padded(following, kNone, ids.device()));
    take(news);
  }

  // [B,1], on the device.
  at::Tensor last_tokens() const {
    return at::tensor(last_, at::kLong).unsqueeze(1).to(base_.device(), /*non_blocking=*/true);
  }

  // Several rounds at once, where the base can go on by itself: it makes the next ones while the
  // host looks at these.
  bool go_on_plainly() {
    if (drafter_ || !sampler_.is_greedy()) return false;
    const Stopwatch watch(result_.base_seconds);
    if (!under_way_) under_way_ = more_tokens(last_tokens(), 0);
    if (!under_way_) return false;
    const auto ready = *std::exchange(under_way_, std::nullopt);
    if (ready.sequences() == numbers_) under_way_ = more_tokens(ready.last(), ready.count());
    const auto news = ready.of(numbers_);
    for (size_t b = 0; b < numbers_.size(); ++b) {
      auto& sequence = result_.sequences[numbers_[b]];
      if (!is_finished(sequence)) sequence.rounds += rounds_for(sequence, news[b]);
    }
    take(news);
    return true;
  }

  // Behind ids [B,1], before which so many are not taken yet. What follows a stop token is for
  // nothing.
  std::optional<TokensUnderWay> more_tokens(const at::Tensor& ids, int64_t not_taken) {
    constexpr int64_t kMost = 8;
    int64_t steps = kMost;
    for (const size_t i : numbers_) {
      const auto& sequence = result_.sequences[i];
      if (!is_finished(sequence)) steps = std::min(steps, missing(sequence) - not_taken);
    }
    if (steps <= 0) return std::nullopt;
    const auto tokens = base_.continue_greedily(cache_, ids, steps);
    if (!tokens) return std::nullopt;
    return TokensUnderWay(numbers_, *tokens);
  }

  int64_t missing(const DecodedSequence& sequence) const {
    return options_.max_new_tokens - static_cast<int64_t>(sequence.tokens.size());
  }

  // Up to the one that ended the sequence.
  int64_t rounds_for(const DecodedSequence& sequence, const std::vector<int64_t>& tokens) const {
    const auto stop = std::ranges::find_if(tokens, [&](int64_t token) { return is_stop(token); });
    const auto count = stop - tokens.begin() + (stop == tokens.end() ? 0 : 1);
    return std::min<int64_t>(count, missing(sequence));
  }

  DraftTree propose() {
    const Stopwatch watch(result_.draft_seconds);
    auto request = options_.draft;
    const bool draws = !request.form && request.width == 1 && !sampler_.is_greedy() &&
                       options_.rule == AcceptanceRule::kLossless;
    request.sampler = draws ? &sampler_ : nullptr;
    return drafter_->propose(request);
  }

  void round() {
    const auto ids = last_tokens();
    auto tree = drafter_ ? propose() : DraftTree{};
    if (!tree.tokens.defined()) tree.tokens = tree.parents = ids.slice(1, 0, 0);
    const auto verdict = verified(ids, tree);
    record(verdict);
    Rows news;
    for (size_t b = 0; b < numbers_.size(); ++b) {
      news.emplace_back();
      for (const int64_t node : verdict.paths[b]) {
        news[b].push_back(verdict.tokens[b][static_cast<size_t>(node)]);
      }
      news[b].push_back(verdict.bonus[b]);
    }
    if (drafter_) commit(verdict, news);
    take(news);
  }

  Verdict verified(const at::Tensor& ids, const DraftTree& tree) {
    const Stopwatch watch(result_.base_seconds);
    const auto [tokens, seen] = verified_rows(ids, tree);
    outputs_ = run_base(tokens, seen);
    const auto& hidden = outputs_.last_hidden;
    const auto logits =
        base_.head().logits(hidden.flatten(0, 1)).view({hidden.size(0), hidden.size(1), -1});
    auto verdict = verify(logits, tree, sampler_, options_.rule);
    if (tree.is_chain && !are_chains(verdict.parents)) {
      throw Error(ErrorCode::kInternal, "a drafter proposed a tree that it calls a chain");
    }
    return verdict;
  }

  // The rows of a pass over the tree's root and nodes, and which of them each one sees: a chain's
  // those before it.
  std::pair<at::Tensor, at::Tensor> verified_rows(const at::Tensor& ids, const DraftTree& tree) {
    const int64_t nodes = tree.tokens.size(1);
    if (nodes == 0) return {ids, {}};
    if (tree.is_chain) return {at::cat({ids, tree.tokens.clamp_min(0)}, 1), {}};
    auto& work =
        cache_.prepared<kernels::RecordedWork>(fmt::format("rows of trees of {} nodes", nodes));
    const auto rows = work.run({ids, tree.tokens, tree.parents}, [](const auto& inputs) {
      return std::vector<at::Tensor>{at::cat({inputs[0], inputs[1].clamp_min(0)}, 1),
                                     ancestors_from_root(inputs[2])};
    });
    return {rows[0], rows[1]};
  }

  static bool are_chains(const Rows& parents) {
    return std::ranges::all_of(parents, [](const std::vector<int64_t>& row) {
      return row.empty() ||
             (row.front() == -1 && std::ranges::adjacent_find(row, [](auto a, auto b) {
                                     return b != a + 1;
                                   }) == row.end());
    });
  }

  void commit(const Verdict& verdict, const Rows& news) {
    const Stopwatch watch(result_.draft_seconds);
    const auto rows = accepted_rows(verdict);
    const auto tokens = padded(news, kNone, base_.device());
    auto accepted = follow_each_other(rows) ? first_rows(outputs_, tokens.size(1))
                                            : gathered(outputs_, padded(rows, 0, base_.device()));
    accepted.row_counts.clear();
    for (const auto& row : rows) accepted.row_counts.push_back(static_cast<int64_t>(row.size()));
    drafter_->commit(accepted, tokens);
  }

  // Of a pass: the token before the tree, and the accepted nodes.
  static Rows accepted_rows(const Verdict& verdict) {
    Rows rows;
    for (const auto& path : verdict.paths) {
      rows.push_back({0});
      for (const int64_t node : path) rows.back().push_back(node + 1);
    }
    return rows;
  }

  void record(const Verdict& verdict) {
    cache_.commit_paths(accepted_rows(verdict));
    for (size_t b = 0; b < numbers_.size(); ++b) {
      auto& sequence = result_.sequences[numbers_[b]];
      if (is_finished(sequence)) continue;
      ++sequence.rounds;
      const auto levels = level_count(verdict.tokens[b], verdict.parents[b]);
      const auto size = std::max(sequence.drafted.size(), levels);
      sequence.drafted.resize(size);
      sequence.accepted.resize(size);
      for (size_t i = 0; i < levels; ++i) ++sequence.drafted[i];
      for (size_t i = 0; i < verdict.paths[b].size(); ++i) ++sequence.accepted[i];
    }
  }

  // How many levels a tree has, without absent nodes.
  static size_t level_count(const std::vector<int64_t>& tokens,
                            const std::vector<int64_t>& parents) {
    std::vector<size_t> level;
    size_t most = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      level.push_back(parents[i] < 0 ? 1 : level[static_cast<size_t>(parents[i])] + 1);
      if (tokens[i] >= 0) most = std::max(most, level.back());
    }
    return most;
  }

  bool is_stop(int64_t token) const {
    return std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), token) !=
           options_.stop_tokens.end();
  }

  // Appends the tokens of a round, up to a stop token or the limit.
  void take(const Rows& news) {
    std::vector<int64_t> going_on;
    for (size_t b = 0; b < numbers_.size(); ++b) {
      last_[b] = news[b].back();
      append(numbers_[b], news[b]);
      if (!is_finished(result_.sequences[numbers_[b]])) going_on.push_back(static_cast<int64_t>(b));
    }
    if (finished_go_on() && !going_on.empty()) fill_to_half(going_on);
    if (going_on.size() < numbers_.size()) keep(going_on);
  }

  // Where passes are recorded for a number of sequences.
  bool finished_go_on() const { return base_.device().is_cuda(); }

  // All of them where more than half go on, else half, so that few numbers of sequences exist.
  void fill_to_half(std::vector<int64_t>& going_on) const {
    const size_t half = (numbers_.size() + 1) / 2;
    const size_t count = going_on.size() > half ? numbers_.size() : half;
    for (size_t b = 0; b < numbers_.size() && going_on.size() < count; ++b) {
      if (is_finished(result_.sequences[numbers_[b]])) going_on.push_back(static_cast<int64_t>(b));
    }
    std::ranges::sort(going_on);
  }

  void keep(const std::vector<int64_t>& sequences) {
    std::vector<int64_t> last;
    std::vector<size_t> numbers;
    for (const int64_t b : sequences) {
      numbers.push_back(numbers_[static_cast<size_t>(b)]);
      last.push_back(last_[static_cast<size_t>(b)]);
    }
    numbers_ = std::move(numbers);
    last_ = std::move(last);
    if (numbers_.empty()) return;
    cache_.keep(sequences);
    sampler_.keep(sequences);
    if (drafter_) drafter_->keep(sequences);
  }

  void append(size_t number, const std::vector<int64_t>& tokens) {
    auto& sequence = result_.sequences[number];
    if (is_finished(sequence)) return;
    std::vector<int64_t> taken;
    for (const int64_t token : tokens) {
      taken.push_back(token);
      sequence.tokens.push_back(token);
      sequence.stopped = is_stop(token);
      if (is_finished(sequence)) break;
    }
    if (options_.on_tokens) options_.on_tokens(number, taken);
  }

  bool is_finished(const DecodedSequence& sequence) const {
    return sequence.stopped || missing(sequence) <= 0;
  }

  CausalLM& base_;
  Drafter* drafter_;
  HiddenStateRequest request_;
  const DecodeOptions& options_;
  Sampler sampler_;
  nn::KvCache& cache_;
  std::vector<int64_t> last_;    // tokens of the sequences; not in the cache yet
  std::vector<size_t> numbers_;  // of their prompts
  std::optional<TokensUnderWay> under_way_;
  BaseOutputs outputs_;  // of the last pass
  DecodedBatch result_;
};

}  // namespace

// Of batches that ended well; a batch takes them for as long as it runs.
struct Decoder::Kept {
  struct Caches {
    std::unique_ptr<nn::KvCache> base;
    std::unique_ptr<Drafter> drafter;
  };

  std::mutex mutex;
  Caches caches;

  Caches taken() {
    const std::lock_guard lock(mutex);
    return std::exchange(caches, {});
  }
  void keep(Caches used) {
    if (used.drafter && !used.drafter->begins_anew()) used.drafter.reset();
    const std::lock_guard lock(mutex);
    caches = std::move(used);
  }
};

double DecodedSequence::acceptance_length() const {
  if (rounds == 0) return 1.0;
  return static_cast<double>(tokens.size() - 1) / static_cast<double>(rounds);
}

Decoder::Decoder(CausalLM& base, DrafterFactory drafters, HiddenStateRequest hidden_states)
    : base_(base), drafters_(std::move(drafters)), hidden_states_(std::move(hidden_states)) {
  hidden_states_.last_hidden = true;
  kept_ = std::make_shared<Kept>();
}

DecodedBatch Decoder::run(const std::vector<std::vector<int64_t>>& prompts,
                          const DecodeOptions& options) const {
  check_prompts(prompts, base_.config().vocab_size);
  if (options.max_new_tokens < 1) {
    throw Error(ErrorCode::kInvalidArgument, "max_new_tokens: at least one token");
  }
  if (!options.seeds.empty() && options.seeds.size() != prompts.size()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} seeds for {} prompts", options.seeds.size(), prompts.size()));
  }
  const c10::InferenceMode inference;
  const auto sequences = static_cast<int64_t>(prompts.size());
  auto caches = kept_->taken();
  if (!caches.base) {
    caches.base = std::make_unique<nn::KvCache>(base_.config().num_hidden_layers, sequences);
  }
  caches.base->restart(sequences);
  if (drafters_ && !caches.drafter) caches.drafter = drafters_();
  auto result =
      Generation(base_, *caches.base, caches.drafter.get(), hidden_states_, prompts, options)
          .finish();
  kept_->keep(std::move(caches));
  return result;
}

}  // namespace outrider::decode
