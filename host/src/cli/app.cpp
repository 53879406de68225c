#include "cli/app.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <new>

#include "outrider/error.h"
#include "outrider/version.h"

namespace outrider::cli {
namespace {

void report(const std::string& message, const std::string& hint) {
  note("error: " + message);
  if (!hint.empty()) note("hint: " + hint);
}

void add_global_options(CLI::App& app, GlobalOptions& options) {
  app.add_flag("--json", options.json, "Print results as JSON");
  app.add_option("--plugin-dir", options.plugin_dirs, "Look for plugins here first (repeatable)");
  app.add_flag("--allow-unlocked-plugins", options.allow_unlocked_plugins,
               "Load plugins that no plugins.lock.json vouches for (for plugin authors)");
  app.set_version_flag("--version", "outrider " + std::string(version()));
}

void add_verbs(CLI::App& app, const GlobalOptions& options) {
  add_doctor_verb(app, options);
  add_plugin_verb(app, options);
  add_mode_verb(app, options);
  add_convert_verb(app, options);
  add_data_verb(app, options);
  add_train_verb(app, options);
  add_inspect_verb(app, options);
  add_export_verb(app, options);
  add_forward_verb(app, options);
}

int run_guarded(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    return e.get_exit_code() == 0 ? app.exit(e)
                                  : (app.exit(e), exit_status(ErrorCode::kInvalidArgument));
  } catch (const Error& e) {
    report(e.what(), e.hint());
    return exit_status(e.code());
  } catch (const c10::Error& e) {
    report(std::string("LibTorch: ") + e.what_without_backtrace(),
           "this is a defect of Outrider, or the machine is out of memory");
  } catch (const std::bad_alloc&) {
    report("out of memory", "use a smaller batch, a shorter --max-length or --dtype bfloat16");
  } catch (const std::exception& e) {
    report(e.what(), "this is a defect of Outrider: please report it with the command");
  }
  return exit_status(ErrorCode::kInternal);
}

}  // namespace

int run(int argc, char** argv) {
  CLI::App app("Turns large language models into speculative-decoding models: attach a draft, train "
               "it, export it.",
               "outrider");
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  GlobalOptions options;
  add_global_options(app, options);
  add_verbs(app, options);
  return run_guarded(app, argc, argv);
}

}  // namespace outrider::cli
