#include "generate/decoding_evaluation.h"

#include <fmt/format.h>

#include <utility>

#include "generate/session.h"

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

std::string drafter_name(const EvaluatedModel& model, DrafterKind kind) {
  if (kind == DrafterKind::kNone) return "none";
  return kind == DrafterKind::kPromptLookup ? "prompt-lookup" : model.mode;
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

DecodingEvaluation::DecodingEvaluation(const std::vector<Json>& prompts,
                                       decode::DecodeOptions options, EvaluationPlan plan,
                                       std::unique_ptr<EvaluationFolder> kept)
    : options_(std::move(options)),
      plan_(std::move(plan)),
      kept_(std::move(kept)),
      results_(categories_of(prompts)) {}

std::vector<DecodingWay> DecodingEvaluation::ways_of(const EvaluatedModel& model,
                                                     int64_t batch_size) const {
  std::vector<DecodingWay> ways = {{DrafterKind::kNone, {}, batch_size}};
  for (const auto& draft : plan_.drafts) {
    if (!model.mode.empty()) ways.push_back({DrafterKind::kModel, draft, batch_size});
  }
  for (const auto& draft : plan_.drafts) {
    const bool is_new = plan_.drafts.size() == 1 || draft.shape == DraftShape::kChain;
    if (!has_lookup_ && is_new) ways.push_back({DrafterKind::kPromptLookup, draft, batch_size});
  }
  return ways;
}

/// Where batches are filled, prompts come again at the end.
std::vector<MeasuredTokens> DecodingEvaluation::batches_of(const MeasuredTokens& prompts,
                                                           int64_t batch_size) const {
  const auto count = prompts.size(), size = static_cast<size_t>(batch_size);
  std::vector<MeasuredTokens> batches((count + size - 1) / size);
  const auto all = plan_.fills_batches ? batches.size() * size : count;
  for (size_t i = 0; i < all; ++i) batches[i / size].push_back(prompts[i % count]);
  return batches;
}

Measurement DecodingEvaluation::kept(const Json& key,
                                     const std::vector<MeasuredTokens>& batches) const {
  return kept_ ? kept_->measured(key, batches) : Measurement();
}

void DecodingEvaluation::add(const EvaluatedModel& model, const OnStep& on_step) {
  options_.stop_tokens = stop_tokens(model.folder);
  std::shared_ptr<CausalLM> loaded;
  const auto load = [&]() -> CausalLM& {
    if (!loaded) loaded = model.load();
    return *loaded;
  };
  for (size_t i = 0; i < plan_.batch_sizes.size(); ++i) {
    const auto batches = batches_of(model.prompts, plan_.batch_sizes[i]);
    std::vector<MeasuredWay> ways;
    for (const auto& way : ways_of(model, plan_.batch_sizes[i])) {
      ways.push_back({model.folder.string(), drafter_name(model, way.drafter), way,
                      kept(key_of(model.folder, way), batches)});
    }
    add_side_by_side(std::move(ways), batches, load, [&](EvaluationStep step) {
      step.share =
          (static_cast<double>(i) + step.share) / static_cast<double>(plan_.batch_sizes.size());
      if (on_step) on_step(step);
    });
  }
  has_lookup_ = true;
}

/// Each batch in all ways before the next one, so that whatever else slows the machine down for a
/// while slows all of them down.
void DecodingEvaluation::add_side_by_side(std::vector<MeasuredWay> ways,
                                          const std::vector<MeasuredTokens>& batches,
                                          const Load& load, const OnStep& on_batch) {
  for (size_t batch = 0; batch < batches.size(); ++batch) {
    for (size_t i = 0; i < ways.size(); ++i) {
      const bool was_kept = batch < ways[i].measured.batches.size();
      if (!was_kept) decode(load(), batches[batch], ways[i]);
      const auto done = static_cast<double>(batch * ways.size() + i + 1);
      on_batch({label(ways[i].drafter, ways[i].way), batch + 1, batches.size(),
                done / static_cast<double>(batches.size() * ways.size()), was_kept});
    }
  }
  for (auto& way : ways) results_.add(std::move(way));
  if (kept_) kept_->write_report(results_.to_json(), /*is_finished=*/false);
}

void DecodingEvaluation::decode(CausalLM& model, const MeasuredTokens& batch, MeasuredWay& way) {
  const DraftPlan draft(way.way.draft);
  auto options = options_;
  options.draft = draft.request();
  append(way.measured,
         measure(decoder_of(model, way.way.drafter), batch, options, way.way.batch_size));
  if (kept_) kept_->keep(key_of(way.model, way.way), way.measured);
}

Json DecodingEvaluation::finish() const {
  auto results = results_.to_json();
  if (kept_) kept_->write_report(results, /*is_finished=*/true);
  return results;
}

}  // namespace outrider
