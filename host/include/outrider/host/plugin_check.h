#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

enum class CheckStatus { kPassed, kFailed, kSkipped };

/// "passed", "failed" or "skipped".
OUTRIDER_API const char* status_name(CheckStatus status);

/// What one check found out about one mode or operator of a plugin.
struct CheckResult {
  std::string check, subject;  // "causality", "mode my_algo"
  CheckStatus status = CheckStatus::kPassed;
  std::string detail;  // what was measured, what is wrong, or why it was skipped
};

struct PluginCheckOptions {
  /// A base model's folder; default: a tiny Llama with random weights.
  std::filesystem::path base;
  /// The modes to check; default: those the plugin brings. For a plugin that brings a base
  /// architecture or a draft class, a mode that uses it.
  std::vector<std::string> modes;
  Json config = Json::object();   // over the modes' defaults
  std::vector<std::string> only;  // names of checks; default: all
  double timeout_seconds = 300;   // for one check; 0: none
  std::function<void(const CheckResult&)> on_result;
};

/// Name and meaning of a check, in the order in which they run.
struct CheckDescription {
  std::string name, description;
};
OUTRIDER_API std::vector<CheckDescription> plugin_checks();

/// The conformance suite for a plugin file, which no lock needs to vouch for. The loader's gates
/// are judged here, without running code of the plugin; everything else in child processes, so that
/// a plugin that crashes or hangs is a result and not the end of this process. Call it while this
/// process has no other threads. Throws kInvalidArgument for an unknown check, what reading the
/// base throws, and what a mode says that refuses the config.
OUTRIDER_API std::vector<CheckResult> check_plugin(const std::filesystem::path& file,
                                                   const PluginCheckOptions& options = {});

}  // namespace outrider
