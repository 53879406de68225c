#include "outrider/host/base_reference.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>
#include <utility>
#include <vector>

#include "base_identity.h"
#include "model_folder.h"
#include "model_place.h"
#include "outrider/checkpoint/metadata.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/sha256.h"
#include "outrider/text.h"
#include "settled_config.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOtherBase = "name the base's folder with --base DIR";

std::string line_of(const std::string& name, const at::Tensor& tensor) {
  const auto on_host = tensor.detach().cpu().contiguous();
  const std::string_view bytes(static_cast<const char*>(on_host.const_data_ptr()),
                               on_host.nbytes());
  return fmt::format("{} {} [{}] {}\n", name, at::toString(on_host.scalar_type()),
                     fmt::join(on_host.sizes(), ","), sha256_of(bytes));
}

}  // namespace

Json BaseReference::to_json() const {
  return {{"path", path}, {"absolute", absolute}, {"weights_sha256", weights_sha256}};
}

BaseReference BaseReference::from_json(const Json& json, const std::string& origin) {
  const auto text = [&](const char* key) {
    if (json.is_object() && json.contains(key) && json[key].is_string()) {
      return json[key].get<std::string>();
    }
    throw Error(
        ErrorCode::kInvalidFile,
        fmt::format("{}: /base_model/reference/{} is missing or no string", in_quotes(origin), key),
        "restore the file from where the checkpoint came from");
  };
  return {text("path"), text("absolute"), text("weights_sha256"), {}};
}

fs::path BaseReference::find(const fs::path& given) const {
  if (!given.empty()) return given;
  std::error_code ignored;
  for (const auto& candidate : {absolute, path}) {
    if (fs::is_directory(candidate, ignored)) return candidate;
  }
  throw Error(ErrorCode::kFileNotFound,
              fmt::format("the checkpoint holds a draft only, and its base is neither at {} nor at "
                          "{}",
                          in_quotes(absolute), in_quotes(path)),
              kOtherBase);
}

void BaseReference::require_same(const std::string& found_sha256, const fs::path& folder) const {
  if (found_sha256 == weights_sha256 || found_sha256 == original_sha256) return;
  throw Error(ErrorCode::kIncompatibleCheckpoint,
              fmt::format("the base in {} has other weights than the one the draft was trained on "
                          "({}): SHA-256 {}, recorded is {}",
                          in_quotes(folder.string()), in_quotes(path), found_sha256,
                          printable(weights_sha256)),
              kOtherBase);
}

std::string base_weights_sha256(const TensorMap& weights) {
  std::vector<std::pair<std::string, at::Tensor>> items(weights.begin(), weights.end());
  std::vector<std::string> lines(items.size());
  at::parallel_for(0, static_cast<int64_t>(items.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) lines[i] = line_of(items[i].first, items[i].second);
  });
  return sha256_of(join(lines, ""));
}

std::map<std::string, SafetensorsFolder::Entry> stored_base(const fs::path& folder,
                                                            const ModelConfig& config) {
  require_folder(folder, kModelFolderHint);
  const auto opened = SafetensorsFolder::open(folder);
  const auto settled = settled_config(config, opened.tensors(), {});
  const auto stored = with_tied_embedding(opened.tensors(), settled);
  const auto structure = base_structure(settled);
  std::map<std::string, SafetensorsFolder::Entry> weights;
  for (const auto& [name, unused] : checkpoint_tensors(*structure)) {
    const auto found = stored.find(name);
    if (found != stored.end()) weights.insert(*found);
  }
  return weights;
}

std::string stored_sha256(const std::map<std::string, SafetensorsFolder::Entry>& stored) {
  TensorMap weights;
  for (const auto& [name, entry] : stored) weights[name] = tensor_over(entry.file, *entry.view);
  return base_weights_sha256(weights);
}

std::string stored_base_sha256(const fs::path& folder, const ModelConfig& config) {
  return stored_sha256(stored_base(folder, config));
}

BaseReference refer_to_base(const fs::path& folder) {
  if (auto reference = base_reference_of(folder)) return *std::move(reference);
  return {folder.string(),
          fs::weakly_canonical(folder).string(),
          stored_base_sha256(folder, read_config(folder)),
          {}};
}

std::optional<BaseReference> base_reference_of(const fs::path& folder) {
  if (!fs::exists(folder / CheckpointMetadata::kFileName)) return std::nullopt;
  return recorded_reference(CheckpointMetadata::read(folder), folder);
}

}  // namespace outrider
