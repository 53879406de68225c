#pragma once

#include "outrider/host/held_out.h"
#include "trainer/batch_source.h"

namespace outrider {

/// evaluate() with batches of `batch_size` conversations that other processes may have parts of:
/// then the result is that of the whole in each of them.
Evaluation evaluate(CausalLM& model, const TrainingData& data, BatchSource& batches,
                    int64_t batch_size, int64_t max_length, const EvaluationProgress& on_batch);

}  // namespace outrider
