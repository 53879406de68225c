#pragma once

#include "distributed/process_group.h"
#include "outrider/host/trainer.h"
#include "outrider/host/training_data.h"

namespace outrider {

/// Throws kInvalidArgument, in every process, where processes would train different models, on
/// different data or with different settings: it names what, and where.
void require_same_start(ProcessGroup& processes, const TrainOptions& options, const CausalLM& model,
                        const TrainingData& data);

}  // namespace outrider
