#pragma once

#include <filesystem>
#include <string>

#include "outrider/api.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

struct ExportOptions {
  std::string format = "hf";
  std::string mode;       // which draft; empty: the only one
  std::string base_name;  // see ExportContext
  bool allow_train_serve_mismatch = false;
};

/// Writes a draft in another project's format, atomically. Throws kNotConverted, kUnknownFormat
/// (naming the formats the mode has), and kUnsupported for a draft that the format cannot hold.
OUTRIDER_API void export_draft(const CausalLM& model, const ExportOptions& options,
                               const std::filesystem::path& folder);

}  // namespace outrider
