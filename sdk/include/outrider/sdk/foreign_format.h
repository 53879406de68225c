#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "outrider/checkpoint/tensor_io.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// What a writer may read: the model and the attached draft of its mode.
struct ExportContext {
  const CausalLM& model;
  const AttachedDraft& draft;
};

struct ImportedDraft {
  Json config, metadata;
  TensorMap tensors;  // under Outrider's names
};

/// Export to and import from another project's files. A missing function means: not supported.
struct ForeignFormat {
  std::string name, description;
  std::function<bool(const std::filesystem::path&)> probe;
  /// Writes files into an existing empty folder.
  std::function<void(const ExportContext&, const std::filesystem::path&)> write;
  std::function<ImportedDraft(const std::filesystem::path&)> read;
};

}  // namespace outrider
