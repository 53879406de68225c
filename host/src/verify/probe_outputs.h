#pragma once

#include <set>
#include <string>

#include "outrider/json.h"
#include "outrider/model/causal_lm.h"
#include "verify/check.h"

namespace outrider::verify {

/// What the base and its drafts make of a few fixed tokens, as JSON: of embeddings, layers and last
/// states the root mean square of each position, of logits the likeliest few. Leaves random
/// generators as they were. Throws as the passes do.
Json outputs_of(CausalLM& model);

/// Computes them again, "outputs": the first thing in the order of the data's flow that is another
/// than recorded is the cause. Drafts of the modes in `without` are left out. Throws kInvalidFile
/// where `recorded` is not what outputs_of() makes for such a model.
Checks check_outputs(CausalLM& model, const Json& recorded, const std::set<std::string>& without);

}  // namespace outrider::verify
