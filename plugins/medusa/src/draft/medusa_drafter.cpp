#include "medusa_drafter.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "outrider/decode/stepwise.h"
#include "outrider/error.h"
#include "outrider/ops/linear.h"

namespace outrider::medusa {

MedusaDrafter::MedusaDrafter(std::vector<std::shared_ptr<MedusaHead>> heads)
    : heads_(std::move(heads)) {
  if (heads_.empty()) throw Error(ErrorCode::kUnsupported, "medusa: a draft without heads");
}

void MedusaDrafter::prefill(const BaseOutputs& accepted, const at::Tensor& tokens) {
  commit(accepted, tokens);
}

void MedusaDrafter::commit(const BaseOutputs& accepted, const at::Tensor& tokens) {
  const auto& hidden = accepted.last_hidden;
  const auto last = (tokens.ge(0).sum(1) - 1).view({-1, 1, 1});
  state_ = hidden.gather(1, last.expand({-1, 1, hidden.size(2)}));
}

// As many tokens of a chain as there are heads are drawn.
DraftTree MedusaDrafter::propose(const DraftRequest& request) {
  auto within = request;
  const auto heads = static_cast<int64_t>(heads_.size());
  if (request.width == 1) within.max_tokens = std::min(request.max_tokens, heads);
  return proposals_.run(within, {state_},
                        [this](const std::vector<at::Tensor>& inputs, const DraftRequest& own) {
                          return drafted(inputs[0], own);
                        });
}

// A head's answer is the same at all places of its level.
DraftTree MedusaDrafter::drafted(const at::Tensor& state, const DraftRequest& request) const {
  size_t level = 0;
  const auto logits = [&](const at::Tensor& states) {
    const auto& head = *heads_[level++];
    return ops::linear(head.forward(state), head.projection()).expand({-1, states.size(1), -1});
  };
  return decode::draft_stepwise({.state = state,
                                 .logits = logits,
                                 .advance = [](const at::Tensor& states, const at::Tensor&,
                                               const at::Tensor&) { return states; },
                                 .most_levels = static_cast<int64_t>(heads_.size())},
                                request);
}

void MedusaDrafter::keep(const std::vector<int64_t>& sequences) {
  state_ = state_.index_select(0, at::tensor(sequences, at::kLong).to(state_.device()));
}

}  // namespace outrider::medusa
