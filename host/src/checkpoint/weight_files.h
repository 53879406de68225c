#pragma once

#include <cstdint>
#include <filesystem>

#include "outrider/checkpoint/tensor_io.h"

namespace outrider {

/// Writes the weights of a Hugging Face folder: `model.safetensors`, or, where they take more than
/// `max_shard_size` bytes, `model-00001-of-0000N.safetensors` and so on with
/// `model.safetensors.index.json`. A tensor above the limit has a shard of its own.
void write_weights(const std::filesystem::path& folder, const TensorMap& tensors,
                   int64_t max_shard_size);

}  // namespace outrider
