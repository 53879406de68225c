#pragma once

#include <cstdint>

#include "data/batches.h"
#include "outrider/host/held_out.h"
#include "outrider/host/training_data.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

struct FittedOn {
  int64_t conversations = 0, tokens = 0;
};

/// Fits the attached drafts that have a way to (Draft::make_fit()) on about so many tokens, of
/// conversations spread evenly over the selection. Throws kUnsupported where no draft has one.
FittedOn fit_drafts(CausalLM& model, const TrainingData& data, const Selection& selection,
                    int64_t tokens, int64_t max_length, const EvaluationProgress& on_conversation);

}  // namespace outrider
