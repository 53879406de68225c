#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/stored_model.h"
#include "outrider/api.h"
#include "outrider/checkpoint/metadata.h"
#include "outrider/checkpoint/safetensors.h"
#include "outrider/host/base_reference.h"
#include "outrider/model/causal_lm.h"
#include "outrider/model/model_config.h"

namespace outrider {

/// What a folder is opened for: to say what it holds, or to build its model, for which the plugins
/// of its family and its modes are loaded.
enum class OpenFor { kInspection, kBuilding };

/// A model folder, each of its files read once.
struct ModelFolder {
  std::filesystem::path path;
  CheckpointMetadata metadata;             // nothing for a base model
  std::optional<BaseReference> reference;  // of a folder that holds drafts only
  ModelConfig config;                      // of a folder with its base: as the tensors have it
  SafetensorsFolder tensors;
  std::shared_ptr<CausalLM> structure;  // of the base on "meta"; for building alone

  /// Tells in one error everything that is wrong with config and tensors, files that are Git LFS
  /// pointers first. Throws kUnknownArchitecture and kUnsupported for what cannot be built.
  /// `numerics` and `on_note` as in LoadOptions.
  OUTRIDER_API static ModelFolder open(const std::filesystem::path& path, OpenFor purpose,
                                       const std::optional<std::string>& numerics,
                                       const std::function<void(const std::string&)>& on_note);

  /// All tensors of the model: with those of the base that it refers to, which is looked for in
  /// `base` (may be empty) and, unless another process does, checked by its hash.
  StoredTensors stored_with_base(const std::filesystem::path& base, bool is_checked) const;
};

/// What a base and its drafts need beside the plugins of their modes.
void load_required_plugins(const CheckpointMetadata& metadata);

/// A base on "meta", without memory; the plugin of its family is loaded. Throws
/// kUnknownArchitecture naming what installed plugins bring, or kUnsupported as the family does.
OUTRIDER_API std::shared_ptr<CausalLM> base_structure(const ModelConfig& config);

}  // namespace outrider
