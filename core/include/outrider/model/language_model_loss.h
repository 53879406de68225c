#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/api.h"
#include "outrider/model/base_outputs.h"
#include "outrider/model/train_batch.h"

namespace outrider {

/// The base's own loss: mean cross-entropy over the token targets, streamed over the head. 0-dim.
/// `labels_stand_alone`: every label counts, whatever the masks say.
OUTRIDER_API at::Tensor language_model_loss(const BaseOutputs& base, const TrainBatch& batch,
                                            bool labels_stand_alone);

}  // namespace outrider
