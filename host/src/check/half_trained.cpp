#include "check/half_trained.h"

#include <ATen/ATen.h>

#include "check/mode_runs.h"
#include "outrider/error.h"

namespace outrider::check {

const std::vector<std::vector<int64_t>>& check_prompts() {
  static const std::vector<std::vector<int64_t>> prompts = {
      {5, 17, 60, 31, 8}, {4}, {9, 8, 7, 6, 5, 4, 3, 2, 1}};
  return prompts;
}

std::shared_ptr<CausalLM> half_trained(const ModeSubject& subject) {
  auto model = converted(subject);
  if (!drafter_of(*model)) return nullptr;
  decode::DecodeOptions options;
  options.max_new_tokens = kNewTokens;
  const auto answers = tokens_in(decode::Decoder(*model).run(check_prompts(), options));
  std::vector<int64_t> ids;
  for (const auto& answer : answers) ids.insert(ids.end(), answer.begin(), answer.end());
  ForwardInput batch;
  batch.batch.input_ids = at::tensor(ids, at::kLong).view({-1, kNewTokens});
  batch.batch.attention_mask = batch.batch.loss_mask = at::ones_like(batch.batch.input_ids);
  learn(*model, batch, 40);
  model->eval();
  return model;
}

Draft& draft_of(CausalLM& model) { return *model.speculative_state().back().draft; }

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

DraftSettings settings_of(DraftShape shape) {
  return {.shape = shape,
          .tokens = shape == DraftShape::kChain ? kDraftTokens : 8,
          .depth = 3,
          .width = 3};
}

}  // namespace outrider::check
