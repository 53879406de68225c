#include "verify/path_checks.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "outrider/error.h"
#include "verify/draft_vocabulary_of.h"
#include "verify/step_passes.h"

namespace outrider::verify {
namespace {

// The first row alone, where neither a position nor a mask matters; then rows one by one and
// several at once.
const std::vector<int64_t> kLengths = {1, 4, 1, 9, 1, 16};

// ‖a - b‖ / ‖b‖ of each row of the last dimension, with a floor for rows of zeros.
at::Tensor relative(const at::Tensor& a, const at::Tensor& b) {
  const auto x = a.to(at::kDouble), y = b.to(at::kDouble);
  return (x - y).norm(2, -1) / y.norm(2, -1).clamp_min(1e-6);
}

at::Tensor centred_log(const at::Tensor& log_probabilities) {
  const auto clamped = log_probabilities.to(at::kDouble).clamp_min(-69.0);
  return clamped - clamped.mean();
}

/// A distribution that a drafter draws from against what training says, over the tokens that the
/// draft knows.
struct Comparison {
  at::Tensor trained;     // [V'] logits
  at::Tensor q;           // [V]
  at::Tensor vocabulary;  // [V'], or undefined

  bool is_by_id() const { return vocabulary.defined() || trained.size(0) == q.size(0); }

  double difference() const {
    if (!is_by_id()) return sorted_difference();
    return apart(q_of_vocabulary());
  }
  double sorted_difference() const {
    const auto best = std::get<0>(q.topk(std::min(trained.size(0), q.size(0))));
    return apart(best, /*sorts=*/true);
  }
  /// Of the tokens that training says nothing of.
  double unknown_mass() const {
    return is_by_id() ? 1.0 - q_of_vocabulary().sum().item<double>() : 0.0;
  }

 private:
  at::Tensor q_of_vocabulary() const {
    return vocabulary.defined() ? q.index_select(0, vocabulary) : q;
  }
  double apart(const at::Tensor& probabilities, bool sorts = false) const {
    auto expected = at::log_softmax(trained.to(at::kDouble), 0);
    if (sorts) expected = std::get<0>(expected.sort(0, /*descending=*/true));
    const auto a = centred_log(probabilities.to(at::kDouble).clamp_min(1e-30).log());
    const auto b = centred_log(expected);
    const double scale = 1e-3 * std::sqrt(static_cast<double>(b.numel()));
    return ((a - b).norm() / b.norm().clamp_min(scale)).item<double>();
  }
};

/// Where training and serving differ: by row and step.
struct Deviation {
  int64_t row, step;
  double figure;
};

class DraftComparison {
 public:
  DraftComparison(CausalLM& base, Draft& trained, Draft& served, const at::Tensor& ids)
      : base_(base),
        trained_(trained),
        served_(served),
        ids_(ids),
        tolerance_(tolerance_of(base.dtype())),
        whole_(whole_pass(base, ids, trained.hidden_states_needed())),
        forward_(trained_steps(trained, whole_, ids)),
        vocabulary_(draft_vocabulary_of(trained)) {}

  Checks run(const std::string& name) {
    const auto depth = static_cast<int64_t>(forward_.logits.size());
    if (depth == 0) {
      return {{name,
               Outcome::kSkipped,
               "",
               "the draft reports no step_logits in training: see outrider/loss/step_logits.h",
               {}}};
    }
    const auto chains = served(kLengths, depth);
    for (const auto& chain : chains) compare(chain);
    if (compared_ == 0) {
      return {{name, Outcome::kSkipped, "", "its Drafter draws from no distribution", {}}};
    }
    const auto counted =
        fmt::format("{} rows of {} tokens, {} steps", chains.size(), ids_.size(1), steps_compared_);
    if (deviations_.empty()) return {{name, Outcome::kSame, "", counted + drawn(), largest_}};
    const auto [cause, why] = explained(chains);
    const auto& first = deviations_.front();
    return {{name, Outcome::kDiffers, cause,
             fmt::format("{} ({} of {} distributions differ, the first behind row {} in step {})",
                         why, deviations_.size(), compared_, first.row, first.step),
             largest_}};
  }

 private:
  std::vector<ServedChain> served(const std::vector<int64_t>& lengths, int64_t depth) {
    const auto chunks = cached_passes(base_, ids_, served_.hidden_states_needed(), lengths);
    return served_chains(served_, chunks, ids_, depth);
  }

  std::string drawn() const {
    return forward_.draws ? "; training draws random numbers, so the first step alone" : "";
  }

  std::vector<Comparison> comparisons(const ServedChain& chain) {
    std::vector<Comparison> all;
    if (!chain.q.defined()) return all;
    const auto expected = trained_chain(trained_, whole_, ids_, chain);
    const auto steps = std::min<int64_t>(static_cast<int64_t>(expected.size()), chain.q.size(0));
    for (int64_t k = 0; k < (forward_.draws ? std::min<int64_t>(steps, 1) : steps); ++k) {
      all.push_back({expected[static_cast<size_t>(k)], chain.q[k], vocabulary_});
    }
    return all;
  }

  void compare(const ServedChain& chain) {
    int64_t step = 0;
    for (const auto& comparison : comparisons(chain)) {
      const double figure = comparison.difference();
      largest_ = std::max(largest_, figure);
      ++compared_;
      // Not "greater than": NaN differs too.
      if (!(figure <= tolerance_) || comparison.unknown_mass() > tolerance_) {
        deviations_.push_back({chain.row, step, figure});
      }
      steps_compared_ = std::max(steps_compared_, ++step);
    }
  }

  /// Cause, and what speaks for it. Each hypothesis is tried on the first chain that differs.
  std::pair<std::string, std::string> explained(const std::vector<ServedChain>& chains) {
    const auto& first = deviations_.front();
    const auto& chain = *std::ranges::find(chains, first.row, &ServedChain::row);
    const auto comparison = comparisons(chain)[static_cast<size_t>(first.step)];
    if (comparison.sorted_difference() <= tolerance_) {
      return {"vocabulary map", "the same probabilities, of other tokens"};
    }
    if (const auto shift = shift_of(chain)) {
      return {"positions", fmt::format("the draft says in decoding what it says in training {} row "
                                       "{}",
                                       std::abs(*shift), *shift < 0 ? "before" : "after")};
    }
    const auto later_steps = std::ranges::all_of(
        deviations_, [](const Deviation& deviation) { return deviation.step > 0; });
    if (later_steps) {
      return {"masks",
              "the first step is the same, later ones of the chain are not: what they may see, or "
              "which positions they have"};
    }
    if (first.row == 0) {
      return {"norms",
              "already behind the first row, where no position and no mask matters: "
              "norms, or another input of the draft"};
    }
    if (is_same_in_one_prefill(first.row)) {
      return {"masks",
              "the same where all rows come at once, another where they come one after the other: "
              "what the drafter keeps between its calls"};
    }
    return {"positions", "the first row is the same, later ones are not: positions, rope or masks"};
  }

  // The draft's first step in training, at the rows beside the chain's.
  std::optional<int64_t> shift_of(const ServedChain& chain) {
    const auto& logits = forward_.logits.front();
    for (const int64_t shift : {-1, 1}) {
      const auto row = chain.row + shift;
      if (row < 0 || row >= logits.size(1)) continue;
      if (Comparison{logits[0][row], chain.q[0], vocabulary_}.difference() <= tolerance_) {
        return shift;
      }
    }
    return std::nullopt;
  }

  bool is_same_in_one_prefill(int64_t row) {
    const auto chain = served({row + 1}, 1).front();
    return comparisons(chain).front().difference() <= tolerance_;
  }

  CausalLM& base_;
  Draft& trained_;
  Draft& served_;
  const at::Tensor& ids_;
  double tolerance_, largest_ = 0.0;
  BaseOutputs whole_;
  TrainedSteps forward_;
  at::Tensor vocabulary_;
  std::vector<Deviation> deviations_;
  int64_t compared_ = 0, steps_compared_ = 0;
};

/// Of the rows of one tensor in both ways of running the base, the largest difference, and the
/// first row that differs.
struct RowDifference {
  double largest = 0.0;
  int64_t first = -1;

  void add(const at::Tensor& cached, const at::Tensor& whole, int64_t begin, double tolerance) {
    if (!cached.defined()) return;
    const auto figures = relative(cached[0], whole[0].slice(0, begin, begin + cached.size(1)));
    largest = std::max(largest, figures.max().item<double>());
    for (int64_t i = 0; i < figures.size(0); ++i) {
      const bool is_same = figures[i].item<double>() <= tolerance;
      if (!is_same && (first < 0 || begin + i < first)) first = begin + i;
    }
  }
};

HiddenStateRequest every_layer(const CausalLM& base) {
  HiddenStateRequest request;
  for (int64_t i = 0; i < base.config().num_hidden_layers; ++i) request.layer_outputs.push_back(i);
  return request;
}

RowDifference base_difference(CausalLM& base, const at::Tensor& ids,
                              const std::vector<int64_t>& lengths) {
  const auto request = every_layer(base);
  const auto whole = whole_pass(base, ids, request);
  RowDifference difference;
  const double tolerance = tolerance_of(base.dtype());
  for (const auto& chunk : cached_passes(base, ids, request, lengths)) {
    for (const auto& [layer, states] : chunk.outputs.layer_outputs) {
      difference.add(states, whole.layer_outputs.at(layer), chunk.begin, tolerance);
    }
    difference.add(chunk.outputs.last_hidden, whole.last_hidden, chunk.begin, tolerance);
  }
  return difference;
}

}  // namespace

double tolerance_of(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble ? 2e-3 : 0.25;
}

Checks check_base_paths(CausalLM& base, const at::Tensor& ids) {
  constexpr const char* kName = "base decode";
  RowDifference difference;
  try {
    difference = base_difference(base, ids, kLengths);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    return {{kName, Outcome::kSkipped, "", error.what(), {}}};
  }
  if (difference.first < 0) {
    return {{kName, Outcome::kSame, "",
             fmt::format("{} layers, {} tokens", base.config().num_hidden_layers, ids.size(1)),
             difference.largest}};
  }
  const bool at_once = base_difference(base, ids, {ids.size(1)}).first < 0;
  const auto* cause = difference.first == 0 ? "weights" : (at_once ? "masks" : "positions");
  return {{kName, Outcome::kDiffers, cause,
           fmt::format("the base's states over a cache are others than in one pass, from row {} on",
                       difference.first),
           difference.largest}};
}

Checks check_draft_paths(const std::string& name, CausalLM& base, Draft& trained, Draft& served,
                         const at::Tensor& ids) {
  return DraftComparison(base, trained, served, ids).run(name);
}

}  // namespace outrider::verify
