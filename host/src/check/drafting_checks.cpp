#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "check/decoding_checks.h"
#include "check/half_trained.h"
#include "verify/step_passes.h"

namespace outrider::check {
namespace {

std::string in_a_row(const std::vector<int64_t>& tokens) {
  return fmt::format("{}", fmt::join(tokens, " "));
}

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
    if (both_go_on && is_tie(model, check_prompts()[i], plain[i], place, *a)) continue;
    throw Failure(fmt::format("a {} changes greedy decoding from token {} on: {} instead of {}",
                              shape, place, in_a_row(drafted[i]), in_a_row(plain[i])));
  }
}

}  // namespace

std::string check_drafting(const ModeSubject& subject) {
  const auto model = half_trained(subject);
  if (!model) return kNothingDrafted;
  decode::DecodeOptions options;
  options.max_new_tokens = kNewTokens;
  const auto plain = tokens_in(decode::Decoder(*model).run(check_prompts(), options));
  std::string lengths;
  for (const auto& [shape, name] :
       {std::pair(DraftShape::kChain, "chain"), std::pair(DraftShape::kStaticTree, "static tree"),
        std::pair(DraftShape::kDynamicTree, "dynamic tree")}) {
    const DraftPlan plan(settings_of(shape));
    options.draft = plan.request();
    const auto batch = drafted_decoder(*model).run(check_prompts(), options);
    require_same_tokens(*model, tokens_in(batch), plain, name);
    double length = 0.0;
    for (const auto& sequence : batch.sequences) length += sequence.acceptance_length();
    lengths += fmt::format("{}{} {:.2f}", lengths.empty() ? "" : ", ", name,
                           length / static_cast<double>(check_prompts().size()));
  }
  return fmt::format("{} greedy tokens are plain decoding's; per pass of the base: {}",
                     kNewTokens * static_cast<int64_t>(check_prompts().size()), lengths);
}

}  // namespace outrider::check
