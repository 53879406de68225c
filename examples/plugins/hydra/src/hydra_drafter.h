#pragma once

#include "hydra_draft.h"
#include "outrider/model/drafter.h"

namespace hydra {

/// Head i reads the base's last state and the embeddings of the tokens after it: that is the state
/// of a step, which grows by an embedding with each token.
class HydraDrafter : public outrider::Drafter {
 public:
  /// The draft must outlive it.
  explicit HydraDrafter(const HydraDraft& draft) : draft_(draft) {}

  void prefill(const outrider::BaseOutputs& accepted, const at::Tensor& tokens) override;
  outrider::DraftTree propose(const outrider::DraftRequest& request) override;
  void commit(const outrider::BaseOutputs& accepted, const at::Tensor& tokens) override;
  void keep(const std::vector<int64_t>& sequences) override;

 private:
  at::Tensor with_embedding(const at::Tensor& states, const at::Tensor& tokens) const;

  const HydraDraft& draft_;
  std::shared_ptr<const outrider::LmHead> head_;
  at::Tensor state_;  // [B,1,2h]
};

}  // namespace hydra
