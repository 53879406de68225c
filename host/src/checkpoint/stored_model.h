#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "outrider/checkpoint/metadata.h"
#include "outrider/checkpoint/safetensors.h"
#include "outrider/checkpoint/tensor_io.h"

namespace outrider {

/// Where a single file keeps what outrider_state.json says in a folder.
constexpr const char* kStateKey = "outrider_state";

/// A tensor in a file, on the CPU; it may be a view of the file: never write to it.
struct StoredTensor {
  std::function<at::Tensor()> load;
  size_t bytes = 0;  // that nothing before it in its file takes
  double elements = 0;
};
using StoredTensors = std::map<std::string, StoredTensor>;

StoredTensors stored_tensors(const std::map<std::string, SafetensorsFolder::Entry>& entries);
/// Of tensors in memory, such as those of a pickle, which may share a storage or repeat elements.
StoredTensors stored_tensors(const TensorMap& tensors);
size_t total_bytes(const StoredTensors& tensors);

/// A conversion with its tensors.
struct StoredModel {
  StoredTensors tensors;
  CheckpointMetadata metadata;

  /// From a converted folder, a file of save(), or one of ModelOpt's mto.save(). Throws
  /// kNotConverted for a file of ModelOpt's without a mode; `numerics` as in LoadOptions.
  static StoredModel read(const std::filesystem::path& file_or_folder,
                          const std::optional<std::string>& numerics);
};

}  // namespace outrider
