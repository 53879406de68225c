#pragma once

#include <cstdint>

#include "outrider/api.h"
#include "outrider/host/training_data.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// Teacher-forced results on held-out conversations, weighted by trained tokens: loss, accuracy and
/// overlap per step and draft, and the expected acceptance length that follows from the accuracies.
/// The drafts are in training mode (all steps) and no gradient is computed.
OUTRIDER_API Json evaluate(CausalLM& model, const TrainingData& data, int64_t batch_size,
                           int64_t max_length);

}  // namespace outrider
