#pragma once

#include <filesystem>
#include <memory>

#include "cli/model_options.h"
#include "verify/check.h"

namespace outrider::cli {

/// A model to verify: in float32 unless `options` say otherwise, whatever the type on disk, since
/// rounding would hide what is to be found.
std::shared_ptr<CausalLM> load_to_verify(const std::filesystem::path& folder, LoadOptions load,
                                         const ModelOptions& options);

/// A table of what was compared.
void print_checks(const verify::Checks& checks);

/// Throws kIncompatibleCheckpoint naming the causes where anything differs.
void require_same(const verify::Checks& checks);

}  // namespace outrider::cli
