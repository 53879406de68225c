#pragma once

#include <set>
#include <string>

#include "outrider/api.h"
#include "outrider/model/model_config.h"

namespace outrider {

/// Refuses a config that asks for more than pre-norm layers of plain grouped-query attention and
/// SwiGLU. Many keys that change a computation are known (soft caps, multipliers, experts, sliding
/// windows, biases, partial rotation, other activations): each must be absent, null or neutral
/// unless the family has it in `understood`. Every family calls this before it builds anything, so
/// that a key with a meaning is never read past. Throws kUnsupported, naming all of them at once.
OUTRIDER_API void check_meaning(const ModelConfig& config, const std::set<std::string>& understood);

}  // namespace outrider
