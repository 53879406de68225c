#pragma once

#include <filesystem>
#include <string>

#include "outrider/api.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// Writes the draft of `mode` (or of the only mode there is, when empty) in another project's
/// format, atomically. Throws kNotConverted, kUnknownFormat (naming the formats the mode has).
OUTRIDER_API void export_draft(const CausalLM& model, const std::string& mode,
                               const std::string& format, const std::filesystem::path& folder);

}  // namespace outrider
