#pragma once

#include "outrider/sdk/foreign_format.h"

namespace hydra {

/// The original's folder: config.json with hydra_num_heads, and hydra_lm_head.pt, the state dict of
/// its HydraMLP with grounded heads, whose names are the draft's own. Ours is only the key
/// "outrider_draft" of config.json. https://github.com/zankner/Hydra
outrider::ForeignFormat hydra_format();

}  // namespace hydra
