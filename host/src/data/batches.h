#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "outrider/host/token_shards.h"
#include "outrider/host/training_data.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// The conversations of a data set that a run can learn from, with their lengths after the cut.
struct Selection {
  std::vector<int64_t> conversations, lengths;
  int64_t skipped = 0;
};

/// Leaves out conversations whose first `max_length` tokens hold no training target. Throws
/// kInvalidData when none is left or when the model's vocabulary is smaller than the data's.
Selection select_conversations(const TokenShards& shards, const CausalLM& model,
                               int64_t max_length);

/// `batch` is on the CPU.
TokenCounts count_tokens(const TrainBatch& batch);

/// The tensors of a batch that a pass reads, in a fixed order; undefined where there is none.
std::vector<at::Tensor*> tensors_of(TrainBatch& batch);

/// A right-padded batch on `device`, of one on the CPU; copies to a GPU do not wait for it, and
/// what its loss has to compute is counted before.
ForwardInput forward_input(TrainBatch batch, at::Device device);

/// Puts the attached drafts in training mode, or out of it, for its lifetime.
class DraftTrainingScope {
 public:
  explicit DraftTrainingScope(const CausalLM& model, bool is_training = true);
  ~DraftTrainingScope();
  DraftTrainingScope(const DraftTrainingScope&) = delete;
  DraftTrainingScope& operator=(const DraftTrainingScope&) = delete;

 private:
  const CausalLM& model_;
  std::vector<bool> was_training_;
};

/// The attached drafts' modes, in order of conversion.
std::vector<std::string> mode_names(const CausalLM& model);

/// Throws kNotConverted for a model without drafts.
void require_drafts(const CausalLM& model);

}  // namespace outrider
