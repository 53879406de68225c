#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "outrider/api.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

struct ImportOptions {
  std::string format;  // empty: the one that the folder looks like
  std::string mode;    // empty: any that has the format
  /// "0.47" or "0.42", for a draft that ModelOpt trained; default: what the files say.
  std::optional<std::string> reference_numerics;
  /// Called with what the user should know.
  std::function<void(const std::string&)> on_note;
};

struct ImportResult {
  std::string mode, format;
};

/// Attaches to a base the draft that another project's folder holds, over the formats of all
/// installed modes. Strict: tensors that are missing, unknown or mis-shaped are reported together
/// (kTensorMismatch). Throws kUnknownFormat where no format fits or several do,
/// kIncompatibleCheckpoint for a draft of another base; the base is of no use after an error.
OUTRIDER_API ImportResult import_draft(CausalLM& base, const std::filesystem::path& folder,
                                       const ImportOptions& options = {});

}  // namespace outrider
