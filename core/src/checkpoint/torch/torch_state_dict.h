#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "outrider/checkpoint/safetensors.h"

namespace outrider {

/// Writes contiguous tensors as torch.save() writes a state dict, atomically, so that torch.load()
/// reads it with weights_only=True; equal tensors give equal bytes. Throws kWriteFailed,
/// kInvalidArgument for a name that is not UTF-8, kUnsupported for a dtype without a storage class.
void write_torch_state_dict(const std::filesystem::path& path,
                            const std::map<std::string, TensorView>& tensors);

}  // namespace outrider
