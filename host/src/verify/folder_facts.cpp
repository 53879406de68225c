#include "verify/folder_facts.h"

#include <string_view>

#include "outrider/checkpoint/metadata.h"
#include "outrider/checkpoint/safetensors.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/sha256.h"
#include "outrider/model/model_config.h"

namespace outrider::verify {
namespace {

namespace fs = std::filesystem;

// In one spelling, whichever the config has.
Json rope_facts(const RopeConfig& rope) {
  auto parameters = rope.parameters;
  for (const char* key : {"rope_theta", "rope_type", "type"}) parameters.erase(key);
  return {{"rope_type", rope.type},
          {"rope_theta", rope.theta},
          {"parameters", parameters},
          {"partial_rotary_factor", rope.partial_rotary_factor}};
}

Json base_facts(const ModelConfig& config) {
  Json facts = {{"max_position_embeddings", config.max_position_embeddings},
                {"rms_norm_eps", config.rms_norm_eps},
                {"hidden_act", config.hidden_act},
                {"rope", rope_facts(config.rope)}};
  for (const char* key : {"sliding_window", "use_sliding_window", "max_window_layers"}) {
    if (const auto found = config.raw.find(key); found != config.raw.end()) facts[key] = *found;
  }
  return facts;
}

Json mode_facts(const CheckpointMetadata& metadata) {
  Json modes = Json::object();
  for (const auto& state : metadata.modes) {
    modes[state.mode] = {{"config", state.config}, {"metadata", state.metadata}};
  }
  return modes;
}

// The files that say which token a text's is.
Json tokenizer_facts(const fs::path& folder) {
  Json hashes = Json::object();
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt",
                           "vocab.txt", "added_tokens.json", "tekken.json"}) {
    if (fs::is_regular_file(folder / name)) hashes[name] = sha256_of_file(folder / name);
  }
  return hashes;
}

std::string hash_of(const TensorView& view) {
  return sha256_of({reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size()});
}

}  // namespace

Json facts_of(const fs::path& folder) {
  return {{"base", base_facts(read_config(folder))},
          {"modes", mode_facts(read_metadata(folder))},
          {"tokenizer", tokenizer_facts(folder)}};
}

Json tensor_hashes(const fs::path& folder, const std::function<bool(const std::string&)>& is_wanted,
                   const Json& known) {
  Json hashes = Json::object();
  const auto stored = SafetensorsFolder::open(folder);
  for (const auto& [name, entry] : stored.tensors()) {
    if (!is_wanted(name)) continue;
    hashes[name] = known.contains(name) ? known[name] : Json(hash_of(*entry.view));
  }
  return hashes;
}

}  // namespace outrider::verify
