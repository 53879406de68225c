#include "outrider/host/mode_registry.h"

#include <fmt/format.h>

#include <set>

#include "outrider/error.h"
#include "outrider/text.h"
#include "plugins/unknown_mode.h"

namespace outrider {
namespace {

std::string title(const PluginInfo& plugin) {
  return fmt::format("plugin {} {}", plugin.name, plugin.version.to_string());
}

void check_fields(const ConfigSchema& schema, std::vector<std::string>& problems) {
  std::set<std::string> names;
  for (const auto& field : schema.fields()) {
    if (field.name.empty() || !names.insert(field.name).second) {
      problems.push_back(fmt::format("config field '{}' is declared twice, or has no name",
                                     printable(field.name)));
    }
  }
}

void check_presets(const ModeDescriptor& mode, std::vector<std::string>& problems) {
  std::set<std::string> names;
  for (const auto& preset : mode.presets()) {
    if (preset.name.empty() || !names.insert(preset.name).second) {
      problems.push_back(
          fmt::format("preset '{}' occurs twice, or has no name", printable(preset.name)));
    }
    try {
      mode.config_schema().resolve(preset.overrides);
    } catch (const Error& e) {
      problems.push_back(fmt::format("preset '{}': {}", printable(preset.name), e.what()));
    }
  }
}

/// What is malformed in a mode; whatever it throws is malformed, too.
std::vector<std::string> mode_problems(const ModeDescriptor& mode) {
  std::vector<std::string> problems;
  try {
    check_fields(mode.config_schema(), problems);
    check_presets(mode, problems);
  } catch (const std::exception& e) {
    problems.push_back(printable(e.what()));
  }
  for (auto& problem : problems) problem = fmt::format("mode '{}': {}", mode.name(), problem);
  return problems;
}

}  // namespace

void throw_unknown_mode(const std::string& name, const std::vector<std::string>& known) {
  const auto text = known.empty() ? std::string("no plugin is installed") : suggestion(name, known);
  throw Error(
      ErrorCode::kUnknownMode, fmt::format("unknown mode '{}': {}", printable(name), text),
      "`outrider mode list` shows the modes of the installed plugins, `outrider plugin list` "
      "the plugins and what is wrong with them");
}

void SpeculativeDecodingModeRegistry::commit(
    const PluginInfo& plugin, std::vector<std::unique_ptr<const ModeDescriptor>> modes) {
  std::map<std::string, RegisteredMode> staged;
  std::vector<std::string> problems;
  for (auto& mode : modes) {
    const auto found = mode_problems(*mode);
    problems.insert(problems.end(), found.begin(), found.end());
    const auto name = mode->name();
    if (!staged.emplace(name, RegisteredMode{std::move(mode), plugin}).second) {
      problems.push_back(fmt::format("mode '{}' is registered twice", printable(name)));
    }
  }
  if (!problems.empty()) {
    throw Error(
        ErrorCode::kPluginRegisterFailed,
        fmt::format("{} registers malformed modes: {}", title(plugin), join(problems, "; ")),
        "this is a defect of the plugin: report it to its author");
  }
  publish(plugin, std::move(staged));
}

void SpeculativeDecodingModeRegistry::publish(const PluginInfo& plugin,
                                              std::map<std::string, RegisteredMode> staged) {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> conflicts;
  for (const auto& [name, mode] : staged) {
    if (const auto found = modes_.find(name); found != modes_.end()) {
      conflicts.push_back(
          fmt::format("mode '{}' is already provided by {}", name, title(found->second.plugin)));
    }
  }
  if (!conflicts.empty()) {
    throw Error(ErrorCode::kPluginConflict,
                fmt::format("{} cannot be used: {}", title(plugin), join(conflicts, "; ")),
                "use one of the two plugins in a process, or rename the mode");
  }
  modes_.merge(staged);
}

const RegisteredMode* SpeculativeDecodingModeRegistry::find(
    const std::string& name) const noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = modes_.find(name);
  return found == modes_.end() ? nullptr : &found->second;
}

const RegisteredMode& SpeculativeDecodingModeRegistry::get(const std::string& name) const {
  if (const auto* mode = find(name)) return *mode;
  throw_unknown_mode(name, names());
}

std::vector<std::string> SpeculativeDecodingModeRegistry::names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, mode] : modes_) names.push_back(name);
  return names;
}

}  // namespace outrider
