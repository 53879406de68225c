#pragma once

#include "outrider/sdk/foreign_format.h"

namespace outrider::eagle {

/// The folder that SpecForge exports for SGLang: config.json (LlamaForCausalLMEagle3), a layer
/// called midlayer, and vocabulary maps in any case. https://github.com/sgl-project/SpecForge
ForeignFormat sglang_format();

}  // namespace outrider::eagle
