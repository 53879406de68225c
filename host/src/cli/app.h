#pragma once

#include "cli/common.h"

namespace outrider::cli {

/// Parses the arguments, runs the verb, reports errors on stderr; returns the exit status.
int run(int argc, char** argv);

// One function per verb, each in its own file.
void add_bench_verb(CLI::App& app, const GlobalOptions& options);
void add_convert_verb(CLI::App& app, const GlobalOptions& options);
void add_data_verb(CLI::App& app, const GlobalOptions& options);
void add_doctor_verb(CLI::App& app, const GlobalOptions& options);
void add_eval_verb(CLI::App& app, const GlobalOptions& options);
void add_export_verb(CLI::App& app, const GlobalOptions& options);
void add_forward_verb(CLI::App& app, const GlobalOptions& options);
void add_generate_verb(CLI::App& app, const GlobalOptions& options);
void add_import_verb(CLI::App& app, const GlobalOptions& options);
void add_inspect_verb(CLI::App& app, const GlobalOptions& options);
void add_mode_verb(CLI::App& app, const GlobalOptions& options);
void add_plan_verb(CLI::App& app, const GlobalOptions& options);
void add_plugin_verb(CLI::App& app, const GlobalOptions& options);
void add_restore_verb(CLI::App& app, const GlobalOptions& options);
void add_save_verb(CLI::App& app, const GlobalOptions& options);
void add_train_verb(CLI::App& app, const GlobalOptions& options);
void add_verify_verb(CLI::App& app, const GlobalOptions& options);

/// `plugin new` and `plugin check`, below `plugin`.
void add_plugin_author_verbs(CLI::App& plugin, const GlobalOptions& options);

}  // namespace outrider::cli
