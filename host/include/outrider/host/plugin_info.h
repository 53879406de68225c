#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/checkpoint/metadata.h"
#include "outrider/version.h"

namespace outrider {

/// A plugin, known from its file's bytes alone, or from the stamp of one that is linked into the
/// program: that has neither a path nor a SHA-256.
struct PluginInfo {
  std::filesystem::path path;
  std::string sha256, name;
  SemVer version;
  std::vector<std::string> modes;
  std::vector<std::string> bases;         // architectures
  std::vector<std::string> draft_models;  // MODE/ARCHITECTURE
  std::string torch_build, cuda_archs;
  bool is_built_in = false;

  /// Its file, printable, or "(built in)".
  OUTRIDER_API std::string location() const;
  /// How a checkpoint refers to it: this version's compatible range and this file's hash, which is
  /// empty for a built-in plugin.
  OUTRIDER_API PluginRef reference() const;
};

}  // namespace outrider
