#pragma once

#include <memory>
#include <vector>

#include "eagle_draft.h"
#include "outrider/model/drafter.h"
#include "outrider/nn/kv_cache.h"

namespace outrider::eagle {

/// Drafts as the draft is trained: a row of the base's states and the token after it is a first
/// step, whose output is the state of the next one; a step sees the first steps up to where its
/// chain began, and its own chain.
class EagleDrafter : public Drafter {
 public:
  /// The draft must outlive it.
  explicit EagleDrafter(EagleDraft& draft);

  void prefill(const BaseOutputs& accepted, const at::Tensor& tokens) override;
  DraftTree propose(const DraftRequest& request) override;
  void commit(const BaseOutputs& accepted, const at::Tensor& tokens) override;
  void keep(const std::vector<int64_t>& sequences) override;

 private:
  at::Tensor advance(const at::Tensor& states, const at::Tensor& tokens, const at::Tensor& seen);

  EagleDraft& draft_;
  std::shared_ptr<const LmHead> head_;
  std::unique_ptr<nn::KvCache> cache_;
  std::vector<int64_t> lengths_;  // of the first steps; what is behind them was proposed
  at::Tensor state_;              // [B,1,h], output of the last first step
};

}  // namespace outrider::eagle
