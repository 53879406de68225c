#pragma once

#include <memory>
#include <vector>

#include "medusa_draft.h"
#include "outrider/decode/recorded_proposals.h"
#include "outrider/model/drafter.h"

namespace outrider::medusa {

/// Each head says how the sequence goes on so many tokens later, whatever is between: all that it
/// remembers is the base's last state.
class MedusaDrafter : public Drafter {
 public:
  explicit MedusaDrafter(std::vector<std::shared_ptr<MedusaHead>> heads);

  void prefill(const BaseOutputs& accepted, const at::Tensor& tokens) override;
  DraftTree propose(const DraftRequest& request) override;
  void commit(const BaseOutputs& accepted, const at::Tensor& tokens) override;
  void keep(const std::vector<int64_t>& sequences) override;
  bool begins_anew() const override { return true; }

 private:
  DraftTree drafted(const at::Tensor& state, const DraftRequest& request) const;

  std::vector<std::shared_ptr<MedusaHead>> heads_;
  at::Tensor state_;  // [B,1,h]
  decode::RecordedProposals proposals_;
};

}  // namespace outrider::medusa
