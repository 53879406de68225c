#pragma once

#include "outrider/sdk/foreign_format.h"

namespace outrider::eagle {

/// SafeAILab's EAGLE-3 folder: config.json (LlamaForCausalLM) and a layer called midlayer.
/// https://github.com/SafeAILab/EAGLE
ForeignFormat eagle_format();

}  // namespace outrider::eagle
