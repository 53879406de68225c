#pragma once

#include <cstdint>
#include <string>

namespace outrider::loss {

/// What a draft with a Drafter gives TrainBatch::recorder for each step K of training, counted from
/// 0: logits [B,n,V'] over its vocabulary. Row s is what the step says of token s+2+K, in the chain
/// of steps that begins at the base's row s and reads the tokens s+1 … s+1+K: what its Drafter says
/// in place K of a chain behind that row. `outrider verify` compares the two.
inline constexpr const char* kStepLogits = "step_logits.";

inline std::string step_logits_name(int64_t step) { return kStepLogits + std::to_string(step); }

}  // namespace outrider::loss
