#include "base_identity.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "outrider/error.h"
#include "outrider/host/sha256.h"
#include "outrider/problems.h"
#include "outrider/text.h"

namespace outrider {
namespace fs = std::filesystem;

std::vector<std::string> size_differences(const ModelConfig& base, const Json& recorded,
                                          const std::string& here, const std::string& there) {
  const std::pair<const char*, Json> sizes[] = {
      {"architecture", base.architecture},
      {"hidden_size", base.hidden_size},
      {"vocab_size", base.vocab_size},
      {"num_hidden_layers", base.num_hidden_layers},
      {"max_position_embeddings", base.max_position_embeddings}};
  std::vector<std::string> differences;
  for (const auto& [key, value] : sizes) {
    const auto found = recorded.find(key);
    if (found == recorded.end() || *found == value) continue;
    differences.push_back(fmt::format("{} is {} {}, {} {}", key, value.dump(), here,
                                      printable(found->dump()), there));
  }
  return differences;
}

Json base_identity(const CausalLM& model) {
  const auto& config = model.config();
  Json identity = {{"architecture", config.architecture},
                   {"hidden_size", config.hidden_size},
                   {"num_hidden_layers", config.num_hidden_layers},
                   {"vocab_size", config.vocab_size},
                   {"config_sha256", sha256_of(config.raw.dump())}};
  const bool unchanged = model.has_edit(BaseEdit::kFreezeParameters);
  if (unchanged && !model.weights_sha256().empty()) {
    identity[kWeightsKey] = model.weights_sha256();
  }
  return identity;
}

void check_base(const CausalLM& model, const Json& recorded, const fs::path& origin,
                const std::string& hint) {
  Problems problems;
  if (const auto& hash = model.weights_sha256();
      !hash.empty() && recorded.value(kWeightsKey, Json(hash)) != hash) {
    problems.add("the base's weights are not those that were converted");
  }
  problems.add_all(size_differences(model.config(), recorded, "in the base's config.json",
                                    "in the recorded state"));
  problems.throw_in_a_line(ErrorCode::kIncompatibleCheckpoint, origin.string(), hint);
}

std::optional<BaseReference> recorded_reference(const CheckpointMetadata& metadata,
                                                const fs::path& folder) {
  const auto& base = metadata.base_model;
  if (!base.contains(kReferenceKey)) return std::nullopt;
  auto reference = BaseReference::from_json(base[kReferenceKey],
                                            (folder / CheckpointMetadata::kFileName).string());
  if (const auto original = base.find(kWeightsKey);
      original != base.end() && original->is_string()) {
    reference.original_sha256 = original->get<std::string>();
  }
  return reference;
}

}  // namespace outrider
