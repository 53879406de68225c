#pragma once

#include <string>

#include "outrider/checkpoint/safetensors.h"
#include "outrider/checkpoint/tensor_io.h"

namespace outrider {

/// SHA-256 over name, type, shape and bytes of every stored tensor that `base` names: the same
/// however the folder is sharded, and whatever drafts it holds beside them.
std::string weights_sha256(const SafetensorsFolder& stored, const TensorMap& base);

}  // namespace outrider
