#pragma once

#include "outrider/sdk/foreign_format.h"

namespace outrider::medusa {

/// FasterDecoding's folder: config.json with medusa_num_heads, and medusa_lm_head.pt or
/// .safetensors whose names are the draft's own. https://github.com/FasterDecoding/Medusa
ForeignFormat medusa_format();

}  // namespace outrider::medusa
