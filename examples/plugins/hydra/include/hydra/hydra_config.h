#pragma once

#include <cstdint>
#include <string>

namespace hydra {

/// The config of mode "hydra". The first two are the original's names; it sets the others as
/// arguments of its training script.
struct HydraConfig {
  int64_t hydra_num_heads = 4;
  int64_t hydra_num_layers = 1;
  std::string hydra_loss = "label";  // or "teacher"
  double hydra_heads_coefficient = 1.0;
  double hydra_decay_coefficient = 1.0;
  bool hydra_freeze_base_model = true;
};

}  // namespace hydra
