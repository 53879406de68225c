#include "trainer/eval_prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "data/batches.h"
#include "distributed/process_group.h"
#include "generate/prompt_file.h"
#include "generate/session.h"
#include "generate/tokenized_prompts.h"
#include "outrider/error.h"
#include "outrider/text.h"
#include "trainer/random_state.h"

namespace outrider {
namespace {

void require_known_tokens(const MeasuredTokens& prompts, const CausalLM& model,
                          const std::filesystem::path& file) {
  const auto vocabulary = model.config().vocab_size;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const bool fits = !prompts[i].empty() && std::ranges::all_of(prompts[i], [&](int64_t token) {
      return token >= 0 && token < vocabulary;
    });
    if (fits) continue;
    throw Error(
        ErrorCode::kInvalidData,
        fmt::format("{}: prompt {} of those that are decoded is empty, or has tokens outside "
                    "the vocabulary of {}",
                    in_quotes(file.string()), i + 1, vocabulary),
        "give prompts as text, or as tokens of this model's tokenizer");
  }
}

void require_decoding(CausalLM& model) {
  if (model.decoder_layers().empty()) {
    throw Error(ErrorCode::kUnsupported,
                "--eval-prompts: the model has no decoder layers to decode with",
                "train without --eval-prompts, and evaluate what `outrider restore` makes of the "
                "result and the base");
  }
  for (const auto& attached : model.speculative_state()) decoder_with(model, attached.draft);
}

}  // namespace

Json DecodedPrompts::to_json() const {
  Json json = Json::array();
  for (const auto& draft : drafts) {
    json.push_back(outrider::to_json(draft.acceptance));
    json.back()["mode"] = draft.mode;
  }
  return {{"prompts", prompts}, {"drafts", std::move(json)}};
}

std::optional<DecodedPrompts> DecodedPrompts::read(const Json& json) {
  try {
    DecodedPrompts decoded{json.at("prompts").get<int64_t>(), {}};
    for (const auto& draft : json.at("drafts")) {
      decoded.drafts.push_back({draft.at("mode").get<std::string>(), acceptance_in(draft)});
    }
    return decoded;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

EvalPrompts::EvalPrompts(const TrainOptions& options, CausalLM& model)
    : options_(options), stop_tokens_(stop_tokens(options.source)) {
  require_decoding(model);
  if (!options.processes) {
    prompts_ = read(model);
    return;
  }
  const auto text = options.processes->from_first([&] { return Json(read(model)).dump(); });
  Json::parse(text).get_to(prompts_);
}

MeasuredTokens EvalPrompts::read(const CausalLM& model) const {
  const auto file = read_prompt_file(options_.eval_prompts);
  const auto chosen = spread(file, static_cast<size_t>(options_.eval_num_prompts));
  auto tokens = prompt_tokens(chosen, options_.source);
  require_known_tokens(tokens, model, options_.eval_prompts);
  return tokens;
}

DecodedPrompts EvalPrompts::decode(CausalLM& model, const EvaluationProgress& on_batch) const {
  const DraftTrainingScope decoding(model, /*is_training=*/false);
  const RandomStateScope draws_of_training_stay(model.device(), /*seed=*/0);
  DecodedPrompts decoded{static_cast<int64_t>(prompts_.size()), {}};
  const auto modes = mode_names(model);
  for (size_t i = 0; i < modes.size(); ++i) {
    decoded.drafts.push_back({modes[i], acceptance_of(decoded_with(model, i, on_batch))});
  }
  return decoded;
}

EvalPrompts::Answers EvalPrompts::decoded_with(CausalLM& model, size_t draft,
                                               const EvaluationProgress& on_batch) const {
  const auto decoder = decoder_with(model, model.speculative_state()[draft].draft);
  const auto step =
      options_.per_device_train_batch_size * (options_.processes ? options_.processes->size() : 1);
  const auto total = static_cast<int64_t>(prompts_.size());
  const auto drafts = static_cast<int64_t>(model.speculative_state().size());
  const auto before = static_cast<int64_t>(draft) * total;
  Answers answers;
  int64_t tokens = 0;
  for (int64_t begin = 0; begin < total; begin += step) {
    const auto end = std::min(begin + step, total);
    auto batch = decoded_together(decoder, {prompts_.begin() + begin, prompts_.begin() + end});
    for (const auto& answer : batch) tokens += static_cast<int64_t>(answer.tokens.size());
    std::ranges::move(batch, std::back_inserter(answers));
    if (on_batch) on_batch(before + end, drafts * total, tokens);
  }
  return answers;
}

/// Of several processes each decodes a stretch of them.
EvalPrompts::Answers EvalPrompts::decoded_together(const decode::Decoder& decoder,
                                                   const MeasuredTokens& prompts) const {
  const DraftPlan plan({.tokens = options_.eval_draft_tokens});
  decode::DecodeOptions how{.max_new_tokens = options_.eval_new_tokens,
                            .stop_tokens = stop_tokens_,
                            .sampling = {.temperature = 0.0},
                            .draft = plan.request()};
  if (!options_.processes) return decoder.run(prompts, how).sequences;
  const auto count = static_cast<int64_t>(prompts.size());
  const auto rank = options_.processes->rank(), size = options_.processes->size();
  const auto begin = prompts.begin() + rank * count / size;
  const auto end = prompts.begin() + (rank + 1) * count / size;
  Json own = Json::array();
  if (begin != end) {
    for (const auto& answer : decoder.run({begin, end}, how).sequences) {
      own.push_back(to_json(answer));
    }
  }
  Answers all;
  for (const auto& text : options_.processes->gather(own.dump())) {
    for (const auto& answer : Json::parse(text)) all.push_back(answer_in(answer));
  }
  return all;
}

}  // namespace outrider
