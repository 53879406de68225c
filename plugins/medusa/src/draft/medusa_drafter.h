#pragma once

#include <memory>
#include <vector>

#include "medusa_draft.h"
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

 private:
  std::vector<std::shared_ptr<MedusaHead>> heads_;
  at::Tensor state_;  // [B,1,h]
};

}  // namespace outrider::medusa
