#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>

#include "check/decoding_checks.h"
#include "check/half_trained.h"
#include "verify/step_passes.h"

namespace outrider::check {
namespace {

constexpr double kFalseAlarm = 1e-6;  // of all that one check draws

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
  for (auto* states : hidden_states_of(outputs)) {
    *states = states->expand({batch, -1, -1}).contiguous();
  }
  return outputs;
}

// Returns how many tokens were drawn; nothing for a drafter that draws from no distribution.
int64_t check_draws(CausalLM& model) {
  const auto ids = at::tensor(check_prompts().front(), at::kLong).unsqueeze(0);
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
  const auto& prompt = check_prompts().front();
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

}  // namespace

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

}  // namespace outrider::check
