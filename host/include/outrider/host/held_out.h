#pragma once

#include <cstdint>
#include <functional>

#include "outrider/api.h"
#include "outrider/host/training_data.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// After each batch: the conversations done, all of them, and the tokens of those done.
using EvaluationProgress = std::function<void(int64_t done, int64_t total, int64_t tokens)>;

/// Teacher-forced results on held-out conversations, weighted by trained tokens: loss, accuracy and
/// overlap per step and draft, and the expected acceptance length that follows from the accuracies.
/// The drafts are in training mode (all steps) and no gradient is computed. What `on_batch` throws
/// ends it.
OUTRIDER_API Json evaluate(CausalLM& model, const TrainingData& data, int64_t batch_size,
                           int64_t max_length, const EvaluationProgress& on_batch = {});

}  // namespace outrider
