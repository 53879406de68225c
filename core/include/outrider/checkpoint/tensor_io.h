#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

#include "outrider/api.h"
#include "outrider/checkpoint/safetensors.h"
#include "outrider/checkpoint/torch_file.h"

namespace outrider {

using TensorMap = std::map<std::string, at::Tensor>;

/// A CPU tensor over the mapped file, without a copy; it keeps the file mapped. Never write to it.
OUTRIDER_API at::Tensor tensor_over(const std::shared_ptr<const SafetensorsFile>& file,
                                    const TensorView& view);
OUTRIDER_API at::Tensor tensor_over(const std::shared_ptr<const TorchFile>& file,
                                    const TorchTensor& tensor);

/// Every tensor of a file, mapped.
OUTRIDER_API TensorMap read_tensors(const std::filesystem::path& path);

/// Writes tensors of any device; metadata {"format": "pt"} is added, which transformers asks for.
OUTRIDER_API void write_tensors(const std::filesystem::path& path, const TensorMap& tensors,
                                std::map<std::string, std::string> metadata = {});

/// "float32", "bfloat16", "float16", "float64" → the type. Throws kInvalidArgument.
OUTRIDER_API at::ScalarType parse_dtype(const std::string& name);
OUTRIDER_API std::string dtype_name(at::ScalarType dtype);

}  // namespace outrider
