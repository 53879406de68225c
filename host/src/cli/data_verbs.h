#pragma once

#include "cli/common.h"

namespace outrider::cli {

// The verbs below `outrider data`, each in its own file.
void add_data_prepare_verb(CLI::App& data, const GlobalOptions& options);
void add_data_inspect_verb(CLI::App& data, const GlobalOptions& options);
void add_data_calibrate_verb(CLI::App& data, const GlobalOptions& options);
void add_data_coverage_verb(CLI::App& data, const GlobalOptions& options);
void add_data_regenerate_verb(CLI::App& data, const GlobalOptions& options);
void add_data_hidden_states_verb(CLI::App& data, const GlobalOptions& options);

}  // namespace outrider::cli
