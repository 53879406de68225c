#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "outrider/host/importer.h"
#include "outrider/sdk/foreign_format.h"

namespace outrider {

/// A draft as another project's folder holds it, and who read it.
struct ForeignDraft {
  std::string mode, format;
  ImportedDraft draft;
};

/// Throws as import_draft() does before there is a base.
ForeignDraft read_foreign_draft(const std::filesystem::path& folder, const ImportOptions& options);

/// The draft for a base that it is not attached to, with its tensors. What it has copies of in the
/// base is not compared. Throws as import_draft().
std::shared_ptr<Draft> build_foreign_draft(const CausalLM& base, const ForeignDraft& read,
                                           const std::filesystem::path& folder);

}  // namespace outrider
