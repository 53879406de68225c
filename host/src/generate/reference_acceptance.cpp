#include "generate/reference_acceptance.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include "outrider/decode/decoder.h"
#include "outrider/error.h"

namespace outrider {
namespace {

using Tokens = std::vector<int64_t>;

Draft& first_draft(const CausalLM& model) {
  if (!model.speculative_state().empty()) return *model.speculative_state().front().draft;
  throw Error(ErrorCode::kNotConverted, "the model has no draft", "convert it first");
}

at::Tensor as_batch(const Tokens& tokens, at::Device device) {
  return at::tensor(tokens, at::kLong).unsqueeze(0).to(device);
}

Tokens row_of(const at::Tensor& tokens) {
  const auto row = tokens.flatten().to(at::kCPU).contiguous();
  return {row.const_data_ptr<int64_t>(), row.const_data_ptr<int64_t>() + row.numel()};
}

// The likeliest token behind each row of hidden states [B,S,h].
at::Tensor likeliest(const CausalLM& model, const at::Tensor& hidden) {
  return model.head().logits(hidden.flatten(0, 1)).argmax(1).view({hidden.size(0), hidden.size(1)});
}

// Appends drafts up to the first one that the base, asked behind each, would not say; then its own
// token. How many were accepted.
int64_t accept(const Tokens& drafts, const Tokens& said, size_t limit, Tokens& tokens) {
  int64_t accepted = 0;
  for (size_t i = 0; i < drafts.size() && tokens.size() < limit; ++i) {
    tokens.push_back(said[i]);
    if (said[i] != drafts[i]) break;
    ++accepted;
  }
  return accepted;
}

}  // namespace

PseudoGenerated pseudo_speculative_generate(CausalLM& model, const at::Tensor& ids, int64_t steps) {
  const c10::InferenceMode inference;
  auto& draft = first_draft(model);
  auto request = draft.hidden_states_needed();
  request.last_hidden = true;
  const auto outputs =
      model.run_base({.input_ids = ids, .position_ids = {}, .key_mask = {}, .request = request});
  const auto base_token = likeliest(model, outputs.last_hidden.slice(1, ids.size(1) - 1));
  if (steps < 1) return {base_token, ids.slice(1, 0, 0), {}};
  const auto drafter = draft.make_drafter();
  drafter->prefill(outputs, at::cat({ids.slice(1, 1), base_token}, 1));
  std::vector<at::Tensor> logits;
  const auto tree = drafter->propose(
      {.max_tokens = steps, .depth = steps, .on_logits = [&](const at::Tensor& step) {
         logits.push_back(step);
       }});
  return {base_token, tree.tokens, at::stack(logits, 1)};
}

Tokens ground_truth(CausalLM& model, const Tokens& prompt, int64_t count,
                    const Tokens& stop_tokens) {
  const auto said =
      decode::Decoder(model).run({prompt}, {.max_new_tokens = count, .stop_tokens = stop_tokens});
  auto tokens = prompt;
  const auto& news = said.sequences.front().tokens;
  tokens.insert(tokens.end(), news.begin(), news.end());
  return tokens;
}

ReferenceAcceptance validate(CausalLM& model, const Tokens& prompt, const Tokens& ground_truth,
                             int64_t steps) {
  int64_t iterations = 0;
  Tokens tokens = prompt, drafts;
  while (tokens.size() < ground_truth.size()) {
    ++iterations;
    for (const int64_t draft : drafts) {
      if (tokens.size() == ground_truth.size() || draft != ground_truth[tokens.size()]) break;
      tokens.push_back(draft);
    }
    if (tokens.size() == ground_truth.size()) break;
    const auto next = pseudo_speculative_generate(model, as_batch(tokens, model.device()), steps);
    tokens.push_back(next.base_token.item<int64_t>());
    drafts = row_of(next.draft_tokens);
  }
  const auto news = static_cast<double>(ground_truth.size() - prompt.size());
  return {ground_truth, iterations > 0 ? news / static_cast<double>(iterations) : 0.0};
}

ReferenceAcceptance validate_online(CausalLM& model, const Tokens& prompt, int64_t count,
                                    int64_t steps) {
  const c10::InferenceMode inference;
  const auto limit = prompt.size() + static_cast<size_t>(count);
  int64_t iterations = 0, counted = 0;
  auto tokens = prompt;
  while (tokens.size() < limit) {
    ++iterations;
    ++counted;
    const auto next = pseudo_speculative_generate(model, as_batch(tokens, model.device()), steps);
    tokens.push_back(next.base_token.item<int64_t>());
    if (tokens.size() >= limit) break;
    const auto drafts = row_of(next.draft_tokens);
    const auto candidate = at::cat({as_batch(tokens, model.device()), next.draft_tokens}, 1);
    const auto outputs = model.run_base({.input_ids = candidate,
                                         .position_ids = {},
                                         .key_mask = {},
                                         .request = {.input_embeddings = false}});
    const auto behind = static_cast<int64_t>(tokens.size()) - 1;
    const auto said = row_of(likeliest(model, outputs.last_hidden.slice(1, behind)));
    counted += accept(drafts, said, limit, tokens);
  }
  return {tokens,
          iterations > 0 ? static_cast<double>(counted) / static_cast<double>(iterations) : 0.0};
}

}  // namespace outrider
