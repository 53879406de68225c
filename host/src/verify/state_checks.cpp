#include "verify/state_checks.h"

#include <fmt/format.h>

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/base_identity.h"
#include "checkpoint/model_folder.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/convert.h"
#include "outrider/host/sha256.h"
#include "outrider/text.h"
#include "verify/difference.h"
#include "verify/folder_facts.h"

namespace outrider::verify {
namespace {

namespace fs = std::filesystem;

// How a base may have spelled its type before saving spelled it "dtype": {} where it had none.
std::vector<Json> spellings_of_dtype() {
  std::vector<Json> spellings = {Json::object()};
  for (const char* type : {"float32", "bfloat16", "float16", "float64"}) {
    spellings.push_back({{"dtype", type}});
    spellings.push_back({{"torch_dtype", type}});
    spellings.push_back({{"dtype", type}, {"torch_dtype", type}});
  }
  return spellings;
}

/// The spelling with which the config has the recorded hash; nothing where it has another content.
std::optional<Json> recorded_dtype(const ModelConfig& config, const Json& recorded) {
  auto rest = config.raw;
  rest.erase("dtype");
  rest.erase("torch_dtype");
  for (const auto& spelling : spellings_of_dtype()) {
    auto tried = rest;
    tried.update(spelling);
    if (recorded == sha256_of(tried.dump())) return spelling;
  }
  return std::nullopt;
}

// The value of a key wherever an object has it; null where nothing has.
Json value_in(const Json& json, const std::string& key) {
  if (!json.is_structured()) return nullptr;
  if (json.is_object() && json.contains(key)) return json[key];
  for (const auto& member : json) {
    if (auto found = value_in(member, key); !found.is_null()) return found;
  }
  return nullptr;
}

// What a draft's config took over from its base says what that was.
Checks named_changes(const Json& facts) {
  const auto& base = facts["base"];
  Checks found;
  for (const char* key : {"rope_theta", "rope_type", "factor", "max_position_embeddings",
                          "rms_norm_eps", "hidden_act"}) {
    const auto now = value_in(base, key), then = value_in(facts["modes"], key);
    if (then.is_null() || now == then) continue;
    const auto cause = std::string(key) == "factor" ? "rope" : cause_of(key);
    found.push_back({"base config",
                     Outcome::kDiffers,
                     cause.empty() ? "config" : cause,
                     fmt::format("{} is {} in config.json, {} in outrider_state.json", key,
                                 printable(now.dump()), printable(then.dump())),
                     {}});
  }
  return found;
}

Checks check_base_config(const std::optional<Json>& dtype, const fs::path& folder) {
  constexpr const char* kName = "base config";
  if (dtype)
    return {{kName, Outcome::kSame, "", "config.json is the base's that was converted", {}}};
  auto found = named_changes(facts_of(folder));
  if (found.empty()) {
    found.push_back({kName,
                     Outcome::kDiffers,
                     "config",
                     "config.json is not the base's that was converted",
                     {}});
  }
  return found;
}

// Not of a conversion for offline training, which leaves out the decoder layers.
bool holds_its_layers(const fs::path& folder, const ModelConfig& config) {
  const auto structure = base_structure(config);
  structure->drop_decoder_layers();
  return stored_base(folder, config).size() > checkpoint_tensors(*structure).size();
}

Checks check_base_weights(const fs::path& folder, const ModelConfig& config, const Json& dtype,
                          const CheckpointMetadata& metadata) {
  constexpr const char* kName = "base weights";
  const auto recorded = metadata.base_model.value(kWeightsKey, Json());
  // A hash of the original says nothing of weights in another type.
  const auto original = dtype.empty() ? dtype_name(at::kFloat) : dtype.begin()->get<std::string>();
  if (!recorded.is_string() || original != dtype_name(config.dtype) || metadata.modes.size() > 1 ||
      metadata.base_model.contains(kReferenceKey) || !holds_its_layers(folder, config)) {
    return {};
  }
  if (recorded == stored_base_sha256(folder, config)) {
    return {{kName, Outcome::kSame, "", "the base's weights are those that were converted", {}}};
  }
  return {{kName,
           Outcome::kDiffers,
           "another base",
           "its weights (embeddings, layers, norm or head) are not those that were converted",
           {}}};
}

ModeRequest request_of(const ModeState& state) {
  return std::vector<ModeRequest::Item>{{state.mode, state.config}};
}

// What a conversion with this config would record now, of what it records by itself.
Checks check_metadata(const ModelConfig& config, const ModeState& state) {
  constexpr const char* kName = "metadata";
  ConvertOptions options;
  const auto numerics = state.metadata.value("reference_numerics", Json());
  if (numerics.is_string()) options.reference_numerics = numerics.get<std::string>();
  auto planned = speculative::plan(*base_structure(config), request_of(state), options);
  auto recorded = state.metadata, expected = planned.front().metadata;
  for (auto* metadata : {&recorded, &expected}) metadata->erase("seed");
  for (const auto& [key, value] : state.metadata.items()) {
    if (!expected.contains(key)) recorded.erase(key);
  }
  return or_same(differences(kName, recorded, expected, "its config leads to"), kName,
                 fmt::format("what the config of {} leads to", state.mode));
}

}  // namespace

Checks check_state(const fs::path& folder) {
  Checks checks;
  const auto metadata = read_metadata(folder);
  const auto config = read_config(folder);
  if (metadata.base_model.contains("config_sha256")) {
    const auto dtype = recorded_dtype(config, metadata.base_model["config_sha256"]);
    append(checks, check_base_config(dtype, folder));
    if (dtype) append(checks, check_base_weights(folder, config, *dtype, metadata));
  }
  for (const auto& state : metadata.modes) {
    try {
      append(checks, check_metadata(config, state));
    } catch (const Error& error) {
      checks.push_back({"metadata", Outcome::kSkipped, "", error.what(), {}});
    }
  }
  return checks;
}

}  // namespace outrider::verify
