#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// The plugin that wrote a mode's state: which one to look for, never where.
struct PluginRef {
  std::string name, version, range, sha256;
};

/// One conversion as a checkpoint records it.
struct ModeState {
  std::string mode;
  PluginRef plugin;
  int config_version = 1;
  Json config = Json::object(), metadata = Json::object();
  /// Other plugins that restoring needs: of the base's architecture, of its draft class.
  std::vector<PluginRef> requirements;
};

/// `outrider_state.json`: what must be known to rebuild the structure before tensors are loaded.
struct OUTRIDER_API CheckpointMetadata {
  static constexpr int kFormatVersion = 1;
  static constexpr const char* kFileName = "outrider_state.json";

  int format_version = kFormatVersion;
  std::string written_by;
  Json base_model = Json::object();
  std::vector<ModeState> modes;  // in order of conversion

  /// Throws kFileNotFound, or kInvalidFile that names every missing, unknown or mistyped key;
  /// kIncompatibleCheckpoint for a newer format_version.
  static CheckpointMetadata read(const std::filesystem::path& folder);
  static CheckpointMetadata from_json(const Json& json, const std::string& origin);
  void write(const std::filesystem::path& folder) const;
  Json to_json() const;
};

}  // namespace outrider
