#pragma once

#include <cstdint>
#include <string>

#include "outrider/api.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"
#include "outrider/model/training_cost.h"

namespace outrider {

/// A training step that is to be predicted, on one GPU.
struct PlannedStep {
  TrainingShape shape;              // of one pass
  bool accumulates = false;         // several passes before an update
  bool is_recorded = false;         // as a CUDA graph
  bool base_in_eight_bits = false;  // its layers' matrices
};

/// Bytes on the device at the step's fullest moment, by what they are for.
struct OUTRIDER_API StepMemory {
  std::string moment;  // "the base's pass", "the backward pass" or "the update"
  double base = 0.0, draft = 0.0, optimizer = 0.0, gradients = 0.0, hidden_states = 0.0, kept = 0.0,
         working = 0.0;
  double slack = 0.0;    // kSlack of those: what an allocator rounds up and cannot use
  double outside = 0.0;  // kOutside: the driver's context and the libraries' workspaces

  double total() const;
  Json to_json() const;
};

/// Of the sum, and bytes: of LibTorch's allocator with segments that grow, and CUDA 13 on an H100.
constexpr double kSlack = 0.02, kOutside = 0.8 * (1 << 30);

/// Predicted from a model without memory (on the meta device) and what the code allocates:
///   parameters; of each trained one a float32 master (none of float32), two moments and a
///   gradient; the states that drafts read of the base; what drafts say that they keep
///   (TrainingCost); and the largest of a base layer's pass, the draft's working tensors and the
///   loss's chunk.
/// Throws kNotConverted without a draft, kUnsupported for a base that is trained itself.
OUTRIDER_API StepMemory memory_of(const CausalLM& model, const PlannedStep& step);

/// Bytes that kept products of a step may take (TrainBatch::most_kept) on a device of so many:
/// what all else leaves of nine tenths of it, or of 32 GiB where that is less. Beyond, memory is
/// worth more than the few percent of time that products cost once more.
OUTRIDER_API int64_t room_for_products(const CausalLM& model, PlannedStep step,
                                       double device_bytes);

/// Operations of a pass of products and attention, none of them twice.
struct StepOperations {
  double base = 0.0, draft = 0.0;
};
OUTRIDER_API StepOperations operations_of(const CausalLM& model, const TrainingShape& shape);

/// Bytes of a training step's optimizer in a checkpoint: masters and moments.
OUTRIDER_API double optimizer_bytes(const CausalLM& model);

}  // namespace outrider
