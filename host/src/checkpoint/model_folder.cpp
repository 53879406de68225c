#include "model_folder.h"

#include <ATen/ATen.h>

#include <set>
#include <utility>

#include "base_identity.h"
#include "model_place.h"
#include "modelopt_state.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/model/base_model_registry.h"
#include "outrider/text.h"
#include "problem_list.h"
#include "settled_config.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

std::vector<std::string> architectures_of_plugins() {
  std::set<std::string> names;
  for (const auto& listing : plugin_loader().list()) {
    if (listing.is_usable()) names.insert(listing.info->bases.begin(), listing.info->bases.end());
  }
  return {names.begin(), names.end()};
}

ModelConfig config_of(const fs::path& folder, const CheckpointMetadata& metadata) {
  require_config_file(folder);
  const auto path = folder / "config.json";
  auto config = read_json_file(path);
  if (has_only_modelopt_state(folder)) config = without_modelopt_names(std::move(config), metadata);
  try {
    return ModelConfig::from_json(config, path.string());
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnknownArchitecture) throw;
    // Where a plugin knows the architecture, the config's own problems are what is wrong.
    plugin_loader().load_base(config["architectures"][0].get<std::string>());
    return ModelConfig::from_json(config, path.string());
  }
}

/// A folder's config, and for building the base's structure.
struct Described {
  ModelConfig config;
  std::shared_ptr<CausalLM> structure;
};

Described described(const fs::path& folder, const CheckpointMetadata& metadata, OpenFor purpose) {
  auto config = config_of(folder, metadata);
  auto structure = purpose == OpenFor::kBuilding ? base_structure(config) : nullptr;
  return {std::move(config), std::move(structure)};
}

// The tensors may say of the config what it does not say itself.
void settle(ModelFolder& folder, const std::function<void(const std::string&)>& on_note) {
  const bool was_tied = folder.config.tie_word_embeddings;
  folder.config = settled_config(std::move(folder.config), folder.tensors.tensors(), on_note);
  if (folder.structure && was_tied != folder.config.tie_word_embeddings) {
    folder.structure = base_structure(folder.config);
  }
}

}  // namespace

CheckpointMetadata read_metadata(const fs::path& folder,
                                 const std::optional<std::string>& numerics) {
  if (has_only_modelopt_state(folder)) return read_modelopt_state(folder, numerics);
  refuse_numerics(folder, numerics);
  if (!fs::exists(folder / CheckpointMetadata::kFileName)) return {};
  return CheckpointMetadata::read(folder);
}

ModelConfig read_config(const fs::path& folder) {
  require_folder(folder, kModelFolderHint);
  const bool is_modelopts = has_only_modelopt_state(folder);
  return config_of(folder, is_modelopts ? read_metadata(folder, {}) : CheckpointMetadata());
}

void load_required_plugins(const CheckpointMetadata& metadata) {
  for (const auto& mode : metadata.modes) {
    for (const auto& plugin : mode.requirements) {
      plugin_loader().load({plugin.name, plugin.range, plugin.sha256});
    }
  }
}

std::shared_ptr<CausalLM> base_structure(const ModelConfig& config) {
  try {
    plugin_loader().load_base(config.architecture);
    return BaseModelRegistry::instance().create(
        config, at::TensorOptions().device(at::kMeta).dtype(config.dtype));
  } catch (const Error& error) {
    const auto others = architectures_of_plugins();
    if (error.code() != ErrorCode::kUnknownArchitecture || others.empty()) throw;
    throw Error(error.code(), error.what(),
                error.hint() + "; installed plugins bring " + join(others, ", "));
  }
}

ModelFolder ModelFolder::open(const fs::path& path, OpenFor purpose,
                              const std::optional<std::string>& numerics,
                              const std::function<void(const std::string&)>& on_note) {
  require_folder(path, kModelFolderHint);
  auto metadata = read_metadata(path, numerics);
  if (purpose == OpenFor::kBuilding) load_required_plugins(metadata);
  ProblemList problems;
  std::optional<Described> base;
  std::optional<SafetensorsFolder> tensors;
  const auto pointers = pointers_that_matter(path);
  problems.collect([&] {
    refuse_pointers(path, pointers);
    return true;
  });
  if (!pointers.contains("config.json")) {
    base = problems.collect([&] { return described(path, metadata, purpose); });
  }
  if (pointers.empty()) tensors = problems.collect([&] { return SafetensorsFolder::open(path); });
  problems.finish(in_quotes(path.string()) + " cannot be used as a model");
  auto reference = recorded_reference(metadata, path);
  ModelFolder folder{path,
                     std::move(metadata),
                     std::move(reference),
                     std::move(base->config),
                     *std::move(tensors),
                     std::move(base->structure)};
  for (const auto& note : folder.tensors.notes()) {
    if (on_note) on_note(note);
  }
  if (!folder.reference) settle(folder, on_note);
  return folder;
}

StoredTensors ModelFolder::stored_with_base(const fs::path& base, bool is_checked) const {
  if (!reference && !base.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                in_quotes(path.string()) + " holds its base: no other can be named",
                "leave --base out");
  }
  auto all = tensors.tensors();
  if (!reference) return stored_tensors(with_tied_embedding(std::move(all), config));
  const auto found = reference->find(base);
  auto of_base = stored_base(found, config);
  if (is_checked) reference->require_same(stored_sha256(of_base), found);
  all.merge(std::move(of_base));
  return stored_tensors(all);
}

}  // namespace outrider
