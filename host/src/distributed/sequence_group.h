#pragma once

#include <memory>

#include "distributed/process_group.h"
#include "outrider/ops/sequence_share.h"

namespace outrider {

/// The processes that share this one's sequences: so many of consecutive rank.
class SequenceGroup : public SequenceShare {
 public:
  /// Meets the others of the group; `size` divides the number of all. `processes` must outlive it.
  SequenceGroup(ProcessGroup& processes, int64_t size);
  ~SequenceGroup() override;

  int64_t count() const override { return communicator_->size(); }
  int64_t index() const override { return communicator_->rank(); }
  at::Tensor exchange(const at::Tensor& parts) override;

 private:
  std::unique_ptr<Communicator> communicator_;
};

}  // namespace outrider
