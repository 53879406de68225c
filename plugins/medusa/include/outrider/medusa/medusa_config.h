#pragma once

#include <cstdint>

#include "outrider/json.h"

namespace outrider::medusa {

/// The config of mode "medusa": ModelOpt's MedusaConfig, and what its forward takes as arguments.
struct MedusaConfig {
  int64_t medusa_num_heads = 2;
  int64_t medusa_num_layers = 1;
  // Extensions: the reference sets these per call, with the same defaults.
  bool medusa_freeze_base_model = true;
  double medusa_heads_coefficient = 0.2;
  double medusa_decay_coefficient = 0.8;
};

}  // namespace outrider::medusa
