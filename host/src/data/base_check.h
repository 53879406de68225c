#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "outrider/error.h"
#include "outrider/host/token_shards.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// Where a base's pass over a conversation stops being finite.
struct BaseFault {
  std::string place;  // "decoder layer 3 (of 0 to 7)"
  int64_t conversation = 0, token = 0;
};

/// Runs the base over one conversation and looks at all that it computes, from the embedding to the
/// head: slow, for when something went wrong.
std::optional<BaseFault> first_base_fault(CausalLM& model, const TokenShards& tokens,
                                          int64_t conversation, int64_t max_length);

/// kNonFinite that names the base, the place, weights that are not finite, and the type to try.
Error base_fault_error(const CausalLM& model, const BaseFault& fault);

}  // namespace outrider
