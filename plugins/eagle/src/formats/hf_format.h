#pragma once

#include "outrider/sdk/foreign_format.h"

namespace outrider::eagle {

/// The folder that ModelOpt's export writes: config.json (LlamaForCausalLMEagle3) and
/// model.safetensors.
ForeignFormat hf_format();

}  // namespace outrider::eagle
