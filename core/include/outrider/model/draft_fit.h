#pragma once

#include "outrider/api.h"
#include "outrider/model/base_outputs.h"
#include "outrider/model/train_batch.h"

namespace outrider {

/// Parameters for a draft to start from, by regression on what its base computes: some passes of
/// the base and no gradients. All under no_grad.
class OUTRIDER_API DraftFit {
 public:
  virtual ~DraftFit();

  /// What add() reads.
  virtual HiddenStateRequest hidden_states_needed() const = 0;
  /// One sequence [1,S] without padding; keeps of it what it needs.
  virtual void add(const BaseOutputs& base, const TrainBatch& batch) = 0;
  /// Writes the parameters, once, after the last sequence.
  virtual void finish() = 0;
};

}  // namespace outrider
