#pragma once

#include "outrider/model/causal_lm.h"

namespace outrider {

/// The stored pass as the drafts read it. Throws kInvalidData that lists every tensor that is
/// missing or has another shape than the model and the batch's input_ids [B,S] ask for.
BaseOutputs base_outputs_from(const StoredBaseOutputs& stored, const at::Tensor& input_ids,
                              const CausalLM& model, const HiddenStateRequest& request);

}  // namespace outrider
