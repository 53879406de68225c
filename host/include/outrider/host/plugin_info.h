#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/checkpoint/metadata.h"
#include "outrider/version.h"

namespace outrider {

/// A plugin file, known from its bytes alone.
struct PluginInfo {
  std::filesystem::path path;
  std::string sha256, name;
  SemVer version;
  std::vector<std::string> modes;
  std::vector<std::string> bases;         // architectures
  std::vector<std::string> draft_models;  // MODE/ARCHITECTURE
  std::string torch_build, cuda_archs;

  /// How a checkpoint refers to it: this version's compatible range and this file's hash.
  OUTRIDER_API PluginRef reference() const;
};

}  // namespace outrider
