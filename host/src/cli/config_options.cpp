#include "cli/config_options.h"

#include <fmt/format.h>

#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/text.h"

namespace outrider::cli {
namespace {

Json preset_overrides(const ModeDescriptor& mode, const std::string& name) {
  std::vector<std::string> names;
  for (const auto& preset : mode.presets()) {
    if (preset.name == name) return preset.overrides;
    names.push_back(preset.name);
  }
  throw Error(ErrorCode::kUnknownPreset,
              fmt::format("mode '{}' has no preset '{}'", mode.name(), printable(name)),
              suggestion(name, names));
}

}  // namespace

void add_config_options(CLI::App& verb, ConfigChoice& choice) {
  verb.add_option("--preset", choice.preset, "Named settings; see `outrider mode show NAME`");
  verb.add_option("--set", choice.settings, "key=value, dotted keys, JSON values (repeatable)")
      ->allow_extra_args(false);
}

Json combined_config(const std::string& mode, const ConfigChoice& choice, const Json& file) {
  Json config = Json::object();
  if (!choice.preset.empty()) {
    config = preset_overrides(*plugin_loader().load_mode(mode).descriptor, choice.preset);
  }
  config.update(file);
  for (const auto& setting : choice.settings) apply_setting(config, setting);
  return config;
}

}  // namespace outrider::cli
