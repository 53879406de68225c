#include "cli/app.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <new>
#include <string_view>
#include <vector>

#include "outrider/error.h"
#include "outrider/text.h"
#include "outrider/version.h"

namespace outrider::cli {
namespace {

void report(const std::string& message, const std::string& hint) {
  note("error: " + message);
  if (!hint.empty()) note("hint: " + hint);
}

// "outrider data prepare"
std::string full_name(const CLI::App& app) {
  const auto* parent = app.get_parent();
  return parent ? full_name(*parent) + " " + app.get_name() : app.get_name();
}

void add_global_options(CLI::App& app, GlobalOptions& options) {
  app.add_flag("--json", options.json, "Print results as JSON");
  app.add_option("--plugin-dir", options.plugin_dirs, "Look for plugins here first (repeatable)")
      ->allow_extra_args(false);
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
  add_save_verb(app, options);
  add_restore_verb(app, options);
  add_export_verb(app, options);
  add_import_verb(app, options);
  add_forward_verb(app, options);
}

// The first argument that no verb takes, as an unknown verb or option.
int report_usage(const CLI::App& app, const CLI::ParseError& e) {
  const auto* verb = &app;
  while (!verb->get_subcommands().empty()) verb = verb->get_subcommands().front();
  const auto rest = app.remaining(/*recurse=*/true);
  if (rest.empty() || rest.front().starts_with('-')) {
    report(e.what(), fmt::format("see `{} --help`", full_name(*verb)));
  } else {
    std::vector<std::string> known;
    for (const auto* child : verb->get_subcommands(nullptr)) known.push_back(child->get_name());
    report(fmt::format("{}: unknown argument {}", full_name(*verb), in_quotes(rest.front())),
           known.empty() ? fmt::format("see `{} --help`", full_name(*verb))
                         : suggestion(rest.front(), known));
  }
  return exit_status(ErrorCode::kInvalidArgument);
}

// LibTorch's CPU allocator has no error type of its own.
bool is_out_of_memory(const c10::Error& e) {
  return dynamic_cast<const c10::OutOfMemoryError*>(&e) != nullptr ||
         std::string_view(e.what_without_backtrace()).find("can't allocate memory") !=
             std::string_view::npos;
}

int report_out_of_memory() {
  report("out of memory", "use a smaller batch, a shorter --max-length or --dtype bfloat16");
  return exit_status(ErrorCode::kDeviceUnavailable);
}

int run_guarded(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    return e.get_exit_code() == 0 ? app.exit(e) : report_usage(app, e);
  } catch (const Error& e) {
    report(e.what(), e.hint());
    return exit_status(e.code());
  } catch (const c10::Error& e) {
    if (is_out_of_memory(e)) return report_out_of_memory();
    // The rest of LibTorch's message lists every backend.
    const std::string text = e.what_without_backtrace();
    report("LibTorch: " + text.substr(0, text.find('\n')),
           "this is a defect of Outrider: please report it with the command");
  } catch (const std::bad_alloc&) {
    return report_out_of_memory();
  } catch (const std::exception& e) {
    report(e.what(), "this is a defect of Outrider: please report it with the command");
  }
  return exit_status(ErrorCode::kInternal);
}

}  // namespace

int run(int argc, char** argv) {
  CLI::App app(
      "Turns large language models into speculative-decoding models: attach a draft, train "
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
