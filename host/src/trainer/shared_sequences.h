#pragma once

#include <memory>
#include <vector>

#include "outrider/host/trainer.h"
#include "outrider/host/training_data.h"
#include "outrider/ops/sequence_share.h"

namespace outrider {

/// The processes that share this one's sequences, met; null where it has whole ones. Throws
/// kUnsupported, naming all of what cannot be shared: of the model, of the data to train on and, if
/// not null, to evaluate on.
std::shared_ptr<SequenceShare> meet_sequence_share(const TrainOptions& options,
                                                   const CausalLM& model, const TrainingData& data,
                                                   const TrainingData* eval_data);

}  // namespace outrider
