#include "eagle_drafter.h"

#include <ATen/ATen.h>

#include "outrider/decode/stepwise.h"

namespace outrider::eagle {
namespace {

std::vector<int64_t> row_counts(const at::Tensor& tokens) {
  const auto counts = tokens.ge(0).sum(1).to(at::kCPU);
  const auto* first = counts.const_data_ptr<int64_t>();
  return {first, first + counts.numel()};
}

}  // namespace

EagleDrafter::EagleDrafter(EagleDraft& draft) : draft_(draft) {}

void EagleDrafter::prefill(const BaseOutputs& accepted, const at::Tensor& tokens) {
  head_ = accepted.head;
  cache_ = std::make_unique<nn::KvCache>(draft_.decoder().num_layers(), tokens.size(0));
  lengths_.assign(static_cast<size_t>(tokens.size(0)), 0);
  commit(accepted, tokens);
}

void EagleDrafter::commit(const BaseOutputs& accepted, const at::Tensor& tokens) {
  cache_->truncate(lengths_);
  const auto outputs = advance(draft_.decoder().start(accepted), tokens.clamp_min(0), {});
  const auto counts = row_counts(tokens);
  for (size_t b = 0; b < counts.size(); ++b) lengths_[b] += counts[b];
  cache_->truncate(lengths_);
  const auto last = (tokens.ge(0).sum(1) - 1).view({-1, 1, 1}).expand({-1, 1, outputs.size(2)});
  state_ = outputs.gather(1, last);
}

at::Tensor EagleDrafter::advance(const at::Tensor& states, const at::Tensor& tokens,
                                 const at::Tensor& seen) {
  nn::CachedPass pass(*cache_, tokens.size(1), tokens.device(), seen);
  const auto outputs = draft_.decoder().advance(states, tokens, *head_, pass);
  cache_->commit(std::vector<int64_t>(lengths_.size(), tokens.size(1)));
  return outputs;
}

DraftTree EagleDrafter::propose(const DraftRequest& request) {
  return decode::draft_stepwise(
      {.state = state_,
       .logits = [&](const at::Tensor& states) { return draft_.logits(states, *head_); },
       .advance = [&](const at::Tensor& states, const at::Tensor& tokens,
                      const at::Tensor& seen) { return advance(states, tokens, seen); },
       .vocabulary = draft_.target_ids(),
       .vocab_size = head_->vocab_size()},
      request);
}

void EagleDrafter::keep(const std::vector<int64_t>& sequences) {
  cache_->keep(sequences);
  std::vector<int64_t> lengths;
  for (const int64_t b : sequences) lengths.push_back(lengths_[static_cast<size_t>(b)]);
  lengths_ = std::move(lengths);
  state_ = state_.index_select(0, at::tensor(sequences, at::kLong).to(state_.device()));
}

}  // namespace outrider::eagle
