#pragma once

#include "outrider/sdk/foreign_format.h"

namespace outrider::eagle {

/// The folder that speculators saves and vLLM serves: config.json with a speculators_config, the
/// decoder's own config inside of it, and the base's embedding among the tensors.
/// https://github.com/vllm-project/speculators
ForeignFormat vllm_format();

}  // namespace outrider::eagle
