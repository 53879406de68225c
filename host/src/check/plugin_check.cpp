#include "outrider/host/plugin_check.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "check/check.h"
#include "check/child_run.h"
#include "check/mode_runs.h"
#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/text.h"
#include "plugins/provided_names.h"

namespace outrider {
namespace {

using check::ModeCheck;

const CheckDescription kGateCheck = {"gates",
                                     "the file passes the loader's gates; no code of it runs"};
const CheckDescription kLoadCheck = {
    "load", "its entry function registers what its stamp names and leaves the process as it was"};

std::vector<ModeCheck> mode_checks() {
  std::vector<ModeCheck> checks;
  for (const auto group :
       {check::registration_checks(), check::conversion_checks(), check::training_checks(),
        check::storage_checks(), check::decoding_checks()}) {
    checks.insert(checks.end(), group.begin(), group.end());
  }
  return checks;
}

/// What to run in a child: a check of a mode, with a mode alone whether the request fits it, and
/// without either a check of operators.
struct Task {
  std::optional<ModeCheck> mode_check;
  std::string mode;
  bool is_about_core = false;

  bool is_request() const { return !mode_check && !mode.empty(); }
};

bool is_wanted(const PluginCheckOptions& options, const std::string& check) {
  return options.only.empty() || std::ranges::find(options.only, check) != options.only.end();
}

/// Whether there is more to a check than the plugin and its defaults.
bool has_request(const PluginCheckOptions& options) {
  return !options.config.empty() || !options.base.empty() || !options.modes.empty();
}

std::vector<Task> tasks_of(const PluginInfo& plugin, const PluginCheckOptions& options) {
  std::vector<Task> requests, tasks;
  for (const auto& mode : options.modes.empty() ? plugin.modes : options.modes) {
    for (const auto& check : mode_checks()) {
      if (is_wanted(options, check.name)) tasks.push_back({check, mode});
    }
    const bool is_tried = !tasks.empty() && tasks.back().mode == mode;
    if (has_request(options) && is_tried) requests.push_back({{}, mode});
  }
  tasks.insert(tasks.begin(), requests.begin(), requests.end());
  if (is_wanted(options, check::kOperatorCheck.name)) tasks.push_back({});
  if (is_wanted(options, check::kCoreOperatorCheck.name)) tasks.push_back({.is_about_core = true});
  return tasks;
}

void require_known_checks(const std::vector<std::string>& names) {
  std::vector<std::string> known;
  for (const auto& check : plugin_checks()) known.push_back(check.name);
  for (const auto& name : names) {
    if (std::ranges::find(known, name) != known.end()) continue;
    throw Error(ErrorCode::kInvalidArgument, fmt::format("no check is called {}", in_quotes(name)),
                suggestion(name, known));
  }
}

CheckResult judge(const std::string& name, const std::string& subject,
                  const std::function<std::string()>& run) {
  CheckResult result{name, subject, CheckStatus::kPassed, {}};
  try {
    result.detail = run();
  } catch (const check::Skip& e) {
    result.status = CheckStatus::kSkipped;
    result.detail = e.what();
  } catch (const std::exception& e) {
    result.status = CheckStatus::kFailed;
    result.detail = check::text_of(e);
  } catch (...) {
    result.status = CheckStatus::kFailed;
    result.detail = "an exception that is no std::exception";
  }
  return result;
}

std::string subject_of(const Task& task, const PluginInfo& plugin) {
  return task.mode_check ? "mode " + task.mode : "plugin " + plugin.name;
}

std::string name_of(const Task& task) {
  if (task.mode_check) return task.mode_check->name;
  return (task.is_about_core ? check::kCoreOperatorCheck : check::kOperatorCheck).name;
}

std::vector<CheckResult> run_task(const Task& task, const PluginInfo& plugin,
                                  const PluginCheckOptions& options) {
  if (task.is_about_core) return check::check_core_operators();
  if (!task.mode_check) return check::check_operators(plugin.name);
  return {judge(name_of(task), subject_of(task, plugin), [&] {
    const auto& mode = plugin_loader().load_mode(task.mode);
    const check::CheckBase base(options.base);
    return task.mode_check->run({*mode.descriptor, base, options.config});
  })};
}

bool is_about_request(ErrorCode code) {
  return exit_status(code) == exit_status(ErrorCode::kInvalidArgument) ||
         code == ErrorCode::kUnsupported;
}

/// Why no check of this mode could say anything about the plugin: the base cannot be read, or the
/// mode refuses the config. Whatever else goes wrong is for the checks to find.
std::optional<Error> refusal_of(const std::string& name, const PluginCheckOptions& options) {
  try {
    const auto& mode = plugin_loader().load_mode(name);
    const check::CheckBase base(options.base);
    const auto model = base.model();
    try {
      check::convert({*mode.descriptor, base, options.config}, *model);
    } catch (const Error& e) {
      if (is_about_request(e.code())) return e;
    }
  } catch (const Error& e) {
    return e;
  } catch (const std::exception&) {
  }
  return std::nullopt;
}

std::string load(const std::filesystem::path& file) {
  const auto before = check::ProcessState::now();
  const auto& plugin = plugin_loader().load_unlocked(file);
  check::require_same_process(before, "registering");
  return "registers " + join(provided_names(plugin), ", ");
}

Json to_json(const CheckResult& result) {
  return {{"check", result.check},
          {"subject", result.subject},
          {"status", static_cast<int>(result.status)},
          {"detail", result.detail}};
}

// One line, whatever bytes a plugin put into its messages.
std::string as_line(const CheckResult& result) {
  return to_json(result).dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

CheckResult from_json(const Json& json) {
  return {json.at("check"), json.at("subject"), static_cast<CheckStatus>(json.at("status")),
          json.at("detail")};
}

constexpr const char* kRefusalKey = "refused";

std::string as_line(const Error& refusal) {
  const Json json = {{kRefusalKey, static_cast<int>(refusal.code())},
                     {"message", refusal.what()},
                     {"hint", refusal.hint()}};
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

[[noreturn]] void throw_refusal(const Json& json, size_t modes) {
  const std::string hint = json.at("hint");
  const std::string more = modes > 1 ? "--mode NAME tries one mode alone" : "";
  throw Error(static_cast<ErrorCode>(json.at(kRefusalKey)), json.at("message"),
              hint + (hint.empty() || more.empty() ? "" : "; ") + more);
}

// A child that sent it has run all of its tasks: a plugin may also end the process with exit(0).
const char* const kLastLine = "end";

/// Runs tasks in children, a new one after each crash.
class Suite {
 public:
  Suite(const std::filesystem::path& file, const PluginInfo& plugin,
        const PluginCheckOptions& options)
      : file_(file), plugin_(plugin), options_(options), tasks_(tasks_of(plugin, options)) {}

  void run(const std::function<void(CheckResult)>& report) {
    size_t next = 0;
    do {
      next = run_from(next, report);
    } while (loads_ && next < tasks_.size());
  }

 private:
  // In the child: its first line tells of the load, each task begins with an empty line.
  void work(size_t first, const std::function<void(std::string)>& send) const {
    // Before anything asks LibTorch about CUDA; in the child, since CUDA does not survive a fork.
    dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);
    at::set_num_threads(1);  // the models are tiny
    const auto loaded =
        judge(kLoadCheck.name, "plugin " + plugin_.name, [&] { return load(file_); });
    send(as_line(loaded));
    if (loaded.status == CheckStatus::kFailed) return;
    for (size_t i = first; i < tasks_.size(); ++i) {
      send("");
      if (tasks_[i].is_request()) {
        const auto refusal = refusal_of(tasks_[i].mode, options_);
        if (refusal) send(as_line(*refusal));
        return;  // what the mode left behind in this process must not hide from the checks
      }
      for (const auto& result : run_task(tasks_[i], plugin_, options_)) send(as_line(result));
    }
    send(kLastLine);
  }

  // Returns the task to go on with.
  size_t run_from(size_t first, const std::function<void(CheckResult)>& report) {
    std::optional<CheckResult> loaded;
    size_t begun = 0;
    bool is_complete = false;
    const auto receive = [&](const std::string& line) {
      is_complete = line == kLastLine;
      begun += line.empty();
      if (line.empty() || is_complete) return;
      auto json = Json::parse(line);
      if (json.contains(kRefusalKey)) return refusal_.swap(json);
      auto result = from_json(json);
      const bool is_load = !std::exchange(loaded, result);
      if (!is_load || first == 0) report(std::move(result));
    };
    const auto end = check::run_in_child([&](const auto& send) { work(first, send); }, receive,
                                         options_.timeout_seconds);
    if (!refusal_.is_null()) throw_refusal(refusal_, plugin_.modes.size());
    loads_ = begun > 0;
    if (is_complete || (loaded && loaded->status == CheckStatus::kFailed)) return tasks_.size();
    const auto* task = loads_ ? &tasks_[first + begun - 1] : nullptr;
    // A request has its child to itself; a mode that crashes does so again in a check.
    if (!task || !task->is_request()) report_crash(task, end, report);
    return first + begun;
  }

  void report_crash(const Task* task, const std::string& end,
                    const std::function<void(CheckResult)>& report) const {
    report({task ? name_of(*task) : kLoadCheck.name,
            task ? subject_of(*task, plugin_) : "plugin " + plugin_.name, CheckStatus::kFailed,
            "the process ended: " + end});
  }

  const std::filesystem::path& file_;
  const PluginInfo& plugin_;
  const PluginCheckOptions& options_;
  std::vector<Task> tasks_;
  bool loads_ = true;
  Json refusal_;  // what a child says of the request
};

}  // namespace

const char* status_name(CheckStatus status) {
  constexpr const char* kNames[] = {"passed", "failed", "skipped"};
  return kNames[static_cast<int>(status)];
}

std::vector<CheckDescription> plugin_checks() {
  std::vector<CheckDescription> all = {kGateCheck, kLoadCheck};
  for (const auto& check : mode_checks()) all.push_back({check.name, check.description});
  all.push_back(check::kOperatorCheck);
  all.push_back(check::kCoreOperatorCheck);
  return all;
}

std::vector<CheckResult> check_plugin(const std::filesystem::path& file,
                                      const PluginCheckOptions& options) {
  require_known_checks(options.only);
  std::vector<CheckResult> results;
  const auto report = [&](CheckResult result) {
    if (options.on_result) options.on_result(result);
    results.push_back(std::move(result));
  };
  PluginInfo plugin;
  report(judge(kGateCheck.name, "file " + file.filename().string(), [&] {
    const auto opened = PluginFile::open(std::filesystem::absolute(file));
    opened.check();
    plugin = opened.info();
    return fmt::format("{} {}, SHA-256 {}", plugin.name, plugin.version.to_string(), plugin.sha256);
  }));
  if (results.back().status == CheckStatus::kPassed) Suite(file, plugin, options).run(report);
  return results;
}

}  // namespace outrider
