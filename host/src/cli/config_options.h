#pragma once

#include <string>
#include <vector>

#include "cli/common.h"
#include "outrider/json.h"

namespace outrider::cli {

/// What of a mode's config is given on the command line itself.
struct ConfigChoice {
  std::string preset;
  std::vector<std::string> settings;  // key=value
};

/// --preset and --set.
void add_config_options(CLI::App& verb, ConfigChoice& choice);

/// Precedence: --set > `file` (an object) > --preset > default. Throws kUnknownPreset,
/// kInvalidArgument.
Json combined_config(const std::string& mode, const ConfigChoice& choice, const Json& file);

}  // namespace outrider::cli
