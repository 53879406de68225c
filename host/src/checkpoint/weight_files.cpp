#include "weight_files.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <vector>

#include "outrider/error.h"
#include "outrider/files/json_file.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

std::vector<TensorMap> split(const TensorMap& tensors, int64_t max_shard_size) {
  std::vector<TensorMap> shards(1);
  int64_t held = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto bytes = static_cast<int64_t>(tensor.nbytes());
    if (!shards.back().empty() && held + bytes > max_shard_size) {
      shards.emplace_back();
      held = 0;
    }
    shards.back()[name] = tensor;
    held += bytes;
  }
  return shards;
}

void write_shards(const fs::path& folder, const std::vector<TensorMap>& shards) {
  Json weight_map = Json::object();
  int64_t bytes = 0, parameters = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const auto file = fmt::format("model-{:05d}-of-{:05d}.safetensors", i + 1, shards.size());
    write_tensors(folder / file, shards[i]);
    for (const auto& [name, tensor] : shards[i]) {
      weight_map[name] = file;
      bytes += static_cast<int64_t>(tensor.nbytes());
      parameters += tensor.numel();
    }
  }
  write_json_file(folder / "model.safetensors.index.json",
                  {{"metadata", {{"total_parameters", parameters}, {"total_size", bytes}}},
                   {"weight_map", weight_map}});
}

}  // namespace

void write_weights(const fs::path& folder, const TensorMap& tensors, int64_t max_shard_size) {
  if (max_shard_size <= 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a shard of {} bytes holds nothing", max_shard_size),
                "give a positive size such as 5GB");
  }
  const auto shards = split(tensors, max_shard_size);
  if (shards.size() > 1) return write_shards(folder, shards);
  write_tensors(folder / "model.safetensors", tensors);
}

}  // namespace outrider
