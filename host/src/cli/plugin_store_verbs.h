#pragma once

#include "cli/common.h"

namespace outrider::cli {

/// `plugin add`, `plugin remove` and `plugin verify`.
void add_plugin_store_verbs(CLI::App& plugin, const GlobalOptions& options);

}  // namespace outrider::cli
