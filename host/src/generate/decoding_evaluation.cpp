#include "generate/decoding_evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "generate/session.h"
#include "generate/tokenized_prompts.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> categories_of(const std::vector<Json>& prompts) {
  std::vector<std::string> categories;
  for (const auto& prompt : prompts) {
    const auto category = prompt.value("category", Json());
    categories.push_back(category.is_string() ? category.get<std::string>() : std::string());
  }
  return categories;
}

std::string drafter_name(const CausalLM& model, DrafterKind kind) {
  if (kind == DrafterKind::kNone) return "none";
  if (kind == DrafterKind::kPromptLookup) return "prompt-lookup";
  return model.speculative_state().front().state.mode;
}

Json key_of(const fs::path& folder, const DecodingWay& way) {
  auto key = to_json(way);
  key["model"] = folder.string();
  return key;
}

std::string label(const std::string& drafter, const DecodingWay& way) {
  if (way.drafter == DrafterKind::kNone) {
    return fmt::format("plain, batch size {}", way.batch_size);
  }
  const auto json = to_json(way);
  return fmt::format("{} {}:{}, batch size {}", drafter, json["draft_shape"].get<std::string>(),
                     json["num_draft_tokens"].get<int64_t>(), way.batch_size);
}

}  // namespace

DecodingEvaluation::DecodingEvaluation(std::vector<Json> prompts, decode::DecodeOptions options,
                                       EvaluationPlan plan, std::unique_ptr<EvaluationFolder> kept)
    : prompts_(std::move(prompts)),
      options_(std::move(options)),
      plan_(std::move(plan)),
      kept_(std::move(kept)),
      results_(categories_of(prompts_)) {}

std::vector<DecodingWay> DecodingEvaluation::ways_of(const CausalLM& model) const {
  std::vector<DecodingWay> ways;
  for (const auto size : plan_.batch_sizes) {
    ways.push_back({DrafterKind::kNone, {}, size});
    for (const auto& draft : plan_.drafts) {
      if (!model.speculative_state().empty()) ways.push_back({DrafterKind::kModel, draft, size});
    }
    for (const auto& draft : plan_.drafts) {
      const bool is_new = plan_.drafts.size() == 1 || draft.shape == DraftShape::kChain;
      if (!has_lookup_ && is_new) ways.push_back({DrafterKind::kPromptLookup, draft, size});
    }
  }
  return ways;
}

/// Where batches are filled, prompts come again at the end.
MeasuredTokens DecodingEvaluation::batches_of(int64_t batch_size, MeasuredTokens prompts) const {
  const auto count = prompts.size(), size = static_cast<size_t>(batch_size);
  const auto filled = plan_.fills_batches ? (count + size - 1) / size * size : count;
  for (size_t i = count; i < filled; ++i) prompts.push_back(prompts[i - count]);
  return prompts;
}

Measurement DecodingEvaluation::measured(CausalLM& model, const DecodingWay& way,
                                         const MeasuredTokens& prompts, const OnBatch& on_batch) {
  const DraftPlan draft(way.draft);
  auto options = options_;
  options.draft = draft.request();
  return measure(decoder_of(model, way.drafter), prompts, options, way.batch_size, on_batch);
}

void DecodingEvaluation::add(const fs::path& folder, CausalLM& model, const OnStep& on_step) {
  const auto tokens = prompt_tokens(prompts_, folder);
  options_.stop_tokens = stop_tokens(folder);
  const auto ways = ways_of(model);
  for (size_t i = 0; i < ways.size(); ++i) {
    const auto drafter = drafter_name(model, ways[i].drafter);
    const auto prompts = batches_of(ways[i].batch_size, tokens);
    EvaluationStep step{label(drafter, ways[i]), 0, prompts.size()};
    const auto on_batch = [&](size_t done) {
      step.done = done;
      const double part = static_cast<double>(done) / static_cast<double>(prompts.size());
      step.share = (static_cast<double>(i) + part) / static_cast<double>(ways.size());
      if (on_step) on_step(step);
    };
    const auto key = key_of(folder, ways[i]);
    auto found = kept_ ? kept_->measured(key) : std::nullopt;
    step.was_kept = found.has_value();
    if (found) on_batch(prompts.size());
    if (!found) found = measured(model, ways[i], prompts, on_batch);
    results_.add({folder.string(), drafter, ways[i], *found});
    if (kept_ && !step.was_kept) keep(key, *found);
  }
  has_lookup_ = true;
}

void DecodingEvaluation::keep(const Json& key, const Measurement& measurement) const {
  kept_->keep(key, measurement);
  kept_->write_report(results_.to_json(), /*is_finished=*/false);
}

Json DecodingEvaluation::finish() const {
  auto results = results_.to_json();
  if (kept_) kept_->write_report(results, /*is_finished=*/true);
  return results;
}

}  // namespace outrider
