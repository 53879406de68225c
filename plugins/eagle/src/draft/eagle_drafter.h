#pragma once

#include <memory>
#include <vector>

#include "eagle_draft.h"
#include "outrider/model/drafter.h"
#include "outrider/nn/kv_cache.h"

namespace outrider::eagle {

/// Drafts as the draft is trained: a row of the base's states and the token after it is a first
/// step, whose output is the state of the next one; a step sees the first steps up to where its
/// chain began, and its own chain. On a GPU a proposal is recorded as a whole, and so is what
/// becomes of accepted rows.
class EagleDrafter : public Drafter {
 public:
  /// The draft must outlive it.
  explicit EagleDrafter(EagleDraft& draft);

  void prefill(const BaseOutputs& accepted, const at::Tensor& tokens) override;
  DraftTree propose(const DraftRequest& request) override;
  void commit(const BaseOutputs& accepted, const at::Tensor& tokens) override;
  void keep(const std::vector<int64_t>& sequences) override;
  bool begins_anew() const override { return true; }

 private:
  // That advance together, and in all.
  struct Rows {
    int64_t at_once, all;
  };
  static Rows rows_of(const DraftRequest& request);

  void begin(int64_t sequences, int64_t rows);
  at::Tensor advance(const at::Tensor& states, const at::Tensor& tokens, const at::Tensor& seen);
  /// The same behind lengths [B,1] of the device, without a trace on the host.
  at::Tensor advance_behind(const at::Tensor& lengths, const at::Tensor& states,
                            const at::Tensor& tokens, const at::Tensor& seen);
  /// The tokens' first steps are taken: states [B,n,h].
  void commit_as_it_is(const at::Tensor& states, const at::Tensor& tokens);
  void commit_recorded(const at::Tensor& states, const at::Tensor& tokens);
  DraftTree propose_as_it_is(const DraftRequest& request);
  DraftTree drafted(const at::Tensor& state, const DraftRequest& request, const auto& advance);
  bool can_record(const Rows& rows);
  const at::Tensor& lengths_on_device();

  EagleDraft& draft_;
  std::shared_ptr<const LmHead> head_;
  std::unique_ptr<nn::KvCache> cache_;
  std::vector<int64_t> lengths_;  // of the first steps; what is behind them was proposed
  at::Tensor device_lengths_;     // [B,1], undefined where they are not there yet
  at::Tensor state_;              // [B,1,h], output of the last first step
};

}  // namespace outrider::eagle
