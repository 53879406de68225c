#include "cli/app.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "first_line.h"
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
  add_plan_verb(app, options);
  add_train_verb(app, options);
  add_bench_verb(app, options);
  add_generate_verb(app, options);
  add_eval_verb(app, options);
  add_verify_verb(app, options);
  add_inspect_verb(app, options);
  add_save_verb(app, options);
  add_restore_verb(app, options);
  add_export_verb(app, options);
  add_import_verb(app, options);
  add_forward_verb(app, options);
}

const CLI::App* chosen_verb(const CLI::App& app) {
  const auto* verb = &app;
  while (!verb->get_subcommands().empty()) verb = verb->get_subcommands().front();
  return verb;
}

// The first argument that no verb takes, as an unknown verb or option.
int report_usage(const CLI::App& app, const CLI::ParseError& e) {
  const auto* verb = chosen_verb(app);
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

/// An option's value as it was given, or its default; nothing where the verb has no such option.
std::optional<std::string> value_of(const CLI::App& verb, const char* name) {
  const auto* option = verb.get_option_no_throw(name);
  if (option == nullptr) return std::nullopt;
  return option->count() > 0 ? option->as<std::string>() : option->get_default_str();
}

/// What would make this command smaller: options that it has, and does not use for that already.
std::string memory_hint(const CLI::App& verb) {
  std::vector<std::string> ways;
  for (const char* name : {"--per-device-train-batch-size", "--batch-size"}) {
    if (value_of(verb, name).value_or("1") != "1")
      ways.push_back(fmt::format("a smaller {}", name));
  }
  if (value_of(verb, "--max-length")) ways.push_back("a shorter --max-length");
  const auto dtype = value_of(verb, "--dtype");
  if (dtype && *dtype != "bfloat16" && *dtype != "float16") {
    ways.push_back("--dtype bfloat16 for a model that is stored in float32");
  }
  if (ways.empty()) return "use a machine, or a --device, with more memory";
  return "use " + join(ways, ", or ");
}

/// From `start` to the end of its sentence; empty where the text does not have it.
std::string sentence_in(std::string_view text, std::string_view start) {
  const auto begin = text.find(start);
  if (begin == text.npos) return {};
  const auto rest = text.substr(begin);
  return printable(rest.substr(0, std::min(rest.find(". "), rest.find('\n'))));
}

/// LibTorch's words on how much was asked for and, on a GPU, how much there is.
std::string memory_figures(std::string_view text) {
  const auto wanted = sentence_in(text, "ried to allocate"), device = sentence_in(text, "GPU ");
  return (wanted.empty() ? "" : ": t" + wanted) + (device.empty() ? "" : "; " + device);
}

int report_out_of_memory(const CLI::App& app, std::string_view text) {
  report("out of memory" + memory_figures(text), memory_hint(*chosen_verb(app)));
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
    if (is_out_of_memory(e)) return report_out_of_memory(app, e.what_without_backtrace());
    // The rest of LibTorch's message lists every backend.
    report("LibTorch: " + first_line(e.what_without_backtrace()),
           "this is a defect of Outrider: please report it with the command");
  } catch (const std::bad_alloc&) {
    return report_out_of_memory(app, "");
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
