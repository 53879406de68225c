#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <memory>

#include "checkpoint/model_place.h"
#include "cli/app.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/plugin_check.h"
#include "outrider/host/plugin_template.h"
#include "outrider/text.h"

namespace outrider::cli {
namespace {

namespace fs = std::filesystem;

void write_project(const std::string& name, fs::path folder, bool as_json) {
  if (folder.empty()) folder = name;
  write_plugin_project(name, folder);
  const auto prefix = sdk_prefix();
  if (as_json) {
    print_json({{"name", name}, {"folder", folder.string()}, {"sdk_prefix", prefix.string()}});
    return;
  }
  note(fmt::format("wrote {}", printable(folder.string())));
  if (prefix.empty()) {
    note(
        "this program was built but not installed, so CMake will not find its SDK: run\n"
        "  cmake --install BUILD --prefix FOLDER\n"
        "and name FOLDER as CMAKE_PREFIX_PATH in CMakePresets.json");
  }
  note(
      fmt::format("next: cd {} && cmake --preset default && cmake --build --preset default && "
                  "ctest --preset default",
                  printable(folder.string())));
}

struct PluginCheckArguments {
  fs::path file, base, config;
  std::vector<std::string> settings, modes, only;
  double timeout_seconds = 300;
};

size_t count_of(const std::vector<CheckResult>& results, CheckStatus status) {
  return static_cast<size_t>(std::ranges::count(results, status, &CheckResult::status));
}

// A table has one line for each check.
std::string on_one_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    const bool is_blank = c == '\n' || c == ' ';
    if (!is_blank || !line.ends_with(' ')) line += is_blank ? ' ' : c;
  }
  return printable(line, 4000);
}

void print_result(const CheckResult& result) {
  fmt::print("{:<8} {:<15} {}{}{}\n", status_name(result.status), result.check,
             printable(result.subject), result.detail.empty() ? "" : ": ",
             on_one_line(result.detail));
  std::fflush(stdout);
}

Json checks_json(const std::vector<CheckResult>& results) {
  Json list = Json::array();
  for (const auto& result : results) {
    list.push_back({{"check", result.check},
                    {"subject", result.subject},
                    {"status", status_name(result.status)},
                    {"detail", result.detail}});
  }
  return {{"results", list},
          {"passed", count_of(results, CheckStatus::kPassed)},
          {"failed", count_of(results, CheckStatus::kFailed)},
          {"skipped", count_of(results, CheckStatus::kSkipped)}};
}

void require_passed(const std::vector<CheckResult>& results, const fs::path& file) {
  std::vector<std::string> failed;
  for (const auto& result : results) {
    if (result.status == CheckStatus::kFailed) failed.push_back(result.check);
  }
  if (failed.empty()) return;
  throw Error(ErrorCode::kPluginCheckFailed,
              fmt::format("{} fails {} of {} checks: {}", printable(file.string()), failed.size(),
                          results.size(), join(failed, ", ")),
              "the plugin author's guide says what each check asks; --only NAME repeats one");
}

PluginCheckOptions options_of(const PluginCheckArguments& arguments) {
  PluginCheckOptions options;
  options.base = arguments.base;
  options.modes = arguments.modes;
  options.only = arguments.only;
  options.timeout_seconds = arguments.timeout_seconds;
  if (!arguments.base.empty()) {
    require_folder(arguments.base, "--base takes the folder of a Hugging Face model");
  }
  if (!arguments.config.empty()) options.config = read_json_file(arguments.config);
  for (const auto& setting : arguments.settings) apply_setting(options.config, setting);
  return options;
}

void check_plugin(const PluginCheckArguments& arguments, bool as_json) {
  if (!fs::exists(arguments.file)) {
    throw Error(ErrorCode::kFileNotFound,
                fmt::format("{}: no such file", printable(arguments.file.string())),
                "give the plugin's file, NAME.outrider.so");
  }
  auto options = options_of(arguments);
  if (!as_json) options.on_result = print_result;
  const auto results = check_plugin(arguments.file, options);
  if (as_json) print_json(checks_json(results));
  if (!as_json) {
    fmt::print("{} passed, {} failed, {} skipped\n", count_of(results, CheckStatus::kPassed),
               count_of(results, CheckStatus::kFailed), count_of(results, CheckStatus::kSkipped));
  }
  require_passed(results, arguments.file);
}

void add_new(CLI::App& plugin, const GlobalOptions& options) {
  auto* verb = add_verb(plugin, "new", "Write the project of a new plugin, ready to build",
                        "outrider plugin new my_algo");
  auto name = std::make_shared<std::string>();
  auto folder = std::make_shared<fs::path>();
  verb->add_option("NAME", *name, "Name of the plugin and its mode")->required();
  verb->add_option("--out", *folder, "Folder to write; default: NAME");
  verb->callback([&options, name, folder] {
    use_plugins(options);
    write_project(*name, *folder, options.json);
  });
}

std::string names_of_checks() {
  std::vector<std::string> names;
  for (const auto& check : plugin_checks()) names.push_back(check.name);
  return join(names, ", ");
}

void add_check(CLI::App& plugin, const GlobalOptions& options) {
  auto* verb = add_verb(plugin, "check",
                        "Try a plugin file on everything that plugins must do, in child processes",
                        "outrider plugin check build/my_algo.outrider.so");
  auto arguments = std::make_shared<PluginCheckArguments>();
  verb->add_option("FILE", arguments->file, "The plugin; no lock needs to list it")->required();
  verb->add_option("--base", arguments->base,
                   "Base model to try it on; default: a tiny Llama with random weights");
  verb->add_option("--mode", arguments->modes,
                   "Mode to check, also another plugin's (repeatable); default: the file's own")
      ->allow_extra_args(false);
  verb->add_option("--config", arguments->config, "Config of the modes, a JSON file");
  verb->add_option("--set", arguments->settings, "One key of the config: key=value (repeatable)")
      ->allow_extra_args(false);
  verb->add_option("--only", arguments->only, "Checks to run (repeatable): " + names_of_checks())
      ->allow_extra_args(false);
  verb->add_option("--timeout", arguments->timeout_seconds,
                   "Seconds after which a check that says nothing has failed; 0: never")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  verb->callback([&options, arguments] {
    use_plugins(options);
    check_plugin(*arguments, options.json);
  });
}

}  // namespace

void add_plugin_author_verbs(CLI::App& plugin, const GlobalOptions& options) {
  add_new(plugin, options);
  add_check(plugin, options);
}

}  // namespace outrider::cli
