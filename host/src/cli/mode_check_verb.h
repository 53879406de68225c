#pragma once

#include "cli/common.h"

namespace outrider::cli {

/// `outrider mode check`.
void add_mode_check_verb(CLI::App& mode, const GlobalOptions& options);

}  // namespace outrider::cli
