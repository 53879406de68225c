#pragma once

#include <filesystem>

#include "outrider/checkpoint/tensor_io.h"

namespace outrider {

/// Every tensor of a state dict in a file of torch.save(), mapped; nothing in the file is run.
/// Throws as TorchFile::open(), and kInvalidFile where the file holds something else.
OUTRIDER_API TensorMap read_torch_tensors(const std::filesystem::path& path);

/// Writes tensors of any device as torch.save() writes a state dict, atomically; torch.load() reads
/// them with weights_only=True, and read_torch_tensors() here.
OUTRIDER_API void write_torch_tensors(const std::filesystem::path& path, const TensorMap& tensors);

}  // namespace outrider
