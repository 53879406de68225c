#pragma once

#include <cstdint>
#include <vector>

#include "eagle_schema.h"
#include "numerics.h"
#include "outrider/kernels/divergence.h"

namespace outrider::eagle {

struct DraftSettings {
  Architecture architecture;
  std::vector<int64_t> aux_layer_ids;  // ascending; empty for EAGLE-1 and EAGLE-MTP
  int64_t ttt_steps = 3;
  double loss_decay_factor = 0.9;
  Numerics numerics;
  bool mixes_hidden_states = false;
  bool trains_on_tokens = false;  // hard labels instead of the base's distribution
  Divergence divergence = Divergence::kCrossEntropy;  // from the base's distribution
};

}  // namespace outrider::eagle
