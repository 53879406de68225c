#pragma once

#include "outrider/api.h"
#include "outrider/model/base_outputs.h"
#include "outrider/model/train_batch.h"

namespace outrider {

/// A batch with its key mask, which is undefined where causal attention alone keeps padding out,
/// and with its documents. Looks at the attention mask, which synchronises, unless `right_padded`
/// says what is there; and at document_ids, unless its documents are given. Throws kInvalidArgument
/// for shapes that do not fit.
OUTRIDER_API TrainBatch prepared_batch(const TrainBatch& batch, const HiddenStateRequest& request,
                                       bool right_padded);

}  // namespace outrider
