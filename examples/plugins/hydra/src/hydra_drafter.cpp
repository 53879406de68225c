#include "hydra_drafter.h"

#include <ATen/ATen.h>

#include "outrider/decode/stepwise.h"

namespace hydra {

void HydraDrafter::prefill(const outrider::BaseOutputs& accepted, const at::Tensor& tokens) {
  commit(accepted, tokens);
}

void HydraDrafter::commit(const outrider::BaseOutputs& accepted, const at::Tensor& tokens) {
  head_ = accepted.head;
  const auto last = tokens.ge(0).sum(1, /*keepdim=*/true) - 1;  // [B,1]
  const auto& hidden = accepted.last_hidden;
  const auto row = last.unsqueeze(2).expand({-1, 1, hidden.size(2)});
  state_ = with_embedding(hidden.gather(1, row), tokens.gather(1, last));
}

at::Tensor HydraDrafter::with_embedding(const at::Tensor& states, const at::Tensor& tokens) const {
  return at::cat({states, head_->embedding(tokens).to(states.scalar_type())}, -1);
}

outrider::DraftTree HydraDrafter::propose(const outrider::DraftRequest& request) {
  size_t head = 0;
  return outrider::decode::draft_stepwise(
      {.state = state_,
       .logits = [&](const at::Tensor& states) { return draft_.head_logits(head++, states); },
       .advance = [&](const at::Tensor& states, const at::Tensor& tokens,
                      const at::Tensor&) { return with_embedding(states, tokens); },
       .vocab_size = head_->vocab_size(),
       .most_levels = draft_.head_count()},
      request);
}

void HydraDrafter::keep(const std::vector<int64_t>& sequences) {
  state_ = state_.index_select(0, at::tensor(sequences, at::kLong).to(state_.device()));
}

}  // namespace hydra
