#include "modelopt_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <utility>
#include <vector>

#include "outrider/checkpoint/torch_file.h"
#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/text.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

struct KnownMode {
  const char* name;          // also the plugin's
  const char* class_prefix;  // of the converted model's class, which config.json names
  const char* config_key;    // that conversion adds to config.json, if it adds one
  bool needs_numerics;       // Outrider's own arithmetic is not ModelOpt's
};
constexpr KnownMode kModes[] = {{"medusa", "Medusa", "medusa", false},
                                {"eagle", "Eagle", nullptr, true}};

// Fields of EagleConfig that 0.42 does not have. Where an old state lacks one, the release behaved
// as the value here, which is not always the field's later default.
struct LaterField {
  const char* name;
  Json (*before)();
};
constexpr Json (*kDefault)() = nullptr;
constexpr LaterField kLaterFields[] = {{"eagle_ttt_steps", [] { return Json(4); }},
                                       {"eagle_export_rope_scaling", [] { return Json::object(); }},
                                       {"eagle_mix_hidden_states", kDefault},
                                       {"eagle_use_torch_compile", kDefault},
                                       {"eagle_enable_nvtx", kDefault},
                                       {"eagle_base_lora", kDefault},
                                       {"eagle_base_lora_rank", kDefault},
                                       {"eagle_base_lora_alpha", kDefault},
                                       {"eagle_base_lora_target_modules", kDefault},
                                       {"eagle_base_lora_preservation_loss_weight", kDefault},
                                       {"eagle_base_lora_warmup_steps", kDefault},
                                       {"eagle_base_lora_start_layer", kDefault},
                                       {"eagle_base_lora_logits_detach_prob", kDefault}};

const KnownMode* known_mode(const std::string& name) {
  const auto* found = std::find_if(std::begin(kModes), std::end(kModes),
                                   [&](const auto& mode) { return mode.name == name; });
  return found == std::end(kModes) ? nullptr : found;
}

// --- reading -----------------------------------------------------------------------------------

Error invalid(const std::string& origin, const std::string& reason) {
  return Error(ErrorCode::kInvalidFile,
               fmt::format("{} is no state of ModelOpt's: {}", in_quotes(origin), reason),
               "expected is what ModelOpt's save_pretrained() or mto.save() wrote");
}

const Json& member(const Json& object, const char* key, bool (Json::*is_type)() const noexcept,
                   const std::string& origin) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || found == object.end() || !((*found).*is_type)()) {
    throw invalid(origin, fmt::format("'{}' is missing or of a wrong type", key));
  }
  return *found;
}

/// Major and minor number of "0.47.0", "0.43.0rc1" and the like.
std::optional<std::pair<int, int>> release_of(std::string_view version) {
  int numbers[2] = {};
  const char* at = version.data();
  const char* const end = at + version.size();
  for (int& number : numbers) {
    const auto parsed = std::from_chars(at, end, number);
    if (parsed.ec != std::errc() || number < 0) return std::nullopt;
    if (&number == numbers && (parsed.ptr == end || *parsed.ptr != '.')) return std::nullopt;
    at = parsed.ptr + (&number == numbers);
  }
  return std::pair(numbers[0], numbers[1]);
}

std::string numerics_of(const std::string& version, const std::string& origin) {
  const auto release = release_of(version);
  if (!release) {
    throw invalid(origin, "its version is " + in_quotes(version, 60) + ", not one like 0.47.0");
  }
  if (*release < std::pair(0, 43)) return "0.42";
  if (*release < std::pair(0, 48)) return "0.47";
  throw Error(
      ErrorCode::kIncompatibleCheckpoint,
      fmt::format("{} is from ModelOpt {}; Outrider knows how releases up to 0.47 compute",
                  in_quotes(origin), printable(version, 60)),
      "--reference-numerics 0.47 restores it as a checkpoint of that release, if you know that "
      "the arithmetic is the same");
}

void check_numerics(const std::string& numerics) {
  if (numerics == "0.47" || numerics == "0.42") return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("--reference-numerics {}: not a release whose arithmetic is known",
                          printable(numerics, 60)),
              "accepted are 0.47 and 0.42");
}

ModeState mode_state(const Json& entry, const std::string& numerics, const std::string& origin) {
  if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string()) {
    throw invalid(origin, "an entry of 'modelopt_state_dict' is no pair of a name and its state");
  }
  const auto name = entry[0].get<std::string>();
  if (known_mode(name) == nullptr) {
    std::vector<std::string> names;
    for (const auto& mode : kModes) names.emplace_back(mode.name);
    throw Error(ErrorCode::kUnknownMode,
                fmt::format("{}: ModelOpt's mode {} cannot be restored", in_quotes(origin),
                            in_quotes(name, 60)),
                "restored are the modes " + join(names, " and "));
  }
  if (!member(entry[1], "metadata", &Json::is_object, origin).empty()) {
    throw invalid(origin, fmt::format("mode '{}' has metadata, which ModelOpt never writes", name));
  }
  ModeState state{.mode = name, .plugin = {.name = name, .range = "*"}};
  state.config = member(entry[1], "config", &Json::is_object, origin);
  if (name == "eagle") {
    for (const auto& field : kLaterFields) {
      if (field.before) state.config.emplace(field.name, field.before());
    }
  }
  state.metadata = {{"reference_numerics", numerics}};
  return state;
}

/// "EagleLlamaForCausalLM" → "LlamaForCausalLM".
std::string without_prefixes(std::string class_name) {
  for (bool found = true; found;) {
    found = false;
    for (const auto& mode : kModes) {
      if (!class_name.starts_with(mode.class_prefix)) continue;
      class_name.erase(0, std::string_view(mode.class_prefix).size());
      found = true;
    }
  }
  return class_name;
}

// --- writing -----------------------------------------------------------------------------------

/// The config without Outrider's extensions, or nothing where one of them has another value than
/// ModelOpt computes with.
std::optional<Json> config_for_modelopt(const ModeState& state) {
  Json config = state.config;
  for (const auto& field : mode_registry().get(state.mode).descriptor->config_schema().fields()) {
    if (!field.extension) continue;
    if (config.value(field.name, field.default_value) != field.default_value) return std::nullopt;
    config.erase(field.name);
  }
  return config;
}

/// As 0.42 records it: it knows fewer fields, and takes the sizes from the base anew.
Json config_for_042(Json config) {
  for (const auto& field : kLaterFields) config.erase(field.name);
  auto& architecture = config.at("eagle_architecture_config");
  for (const char* key : {"hidden_size", "vocab_size", "max_position_embeddings"}) {
    architecture.erase(key);
  }
  architecture.at("rope_scaling").erase("rope_theta");
  return config;
}

/// What modelopt_state.pth says, or nothing.
std::optional<Json> modelopt_state(const CheckpointMetadata& metadata) {
  if (metadata.modes.size() != 1) return std::nullopt;
  const auto& state = metadata.modes.front();
  const auto* mode = known_mode(state.mode);
  const auto numerics = state.metadata.value("reference_numerics", Json());
  if (mode == nullptr || state.plugin.name != mode->name || !state.requirements.empty() ||
      (mode->needs_numerics && !numerics.is_string())) {
    return std::nullopt;
  }
  auto config = config_for_modelopt(state);
  if (!config) return std::nullopt;
  const bool is_old = numerics == "0.42";
  if (is_old && mode->needs_numerics) config = config_for_042(std::move(*config));
  const Json entry = {{"config", std::move(*config)}, {"metadata", Json::object()}};
  return Json{{"modelopt_state_dict", Json::array({Json::array({state.mode, entry})})},
              {"modelopt_version", is_old ? "0.42.0" : "0.47.0"}};
}

}  // namespace

bool has_only_modelopt_state(const fs::path& folder) {
  return fs::exists(folder / kModelOptStateFile) &&
         !fs::exists(folder / CheckpointMetadata::kFileName);
}

CheckpointMetadata metadata_from_modelopt(const Json& state, const std::string& origin,
                                          const std::optional<std::string>& numerics) {
  const auto version =
      member(state, "modelopt_version", &Json::is_string, origin).get<std::string>();
  if (numerics) check_numerics(*numerics);
  const auto computes_as = numerics ? *numerics : numerics_of(version, origin);
  CheckpointMetadata metadata;
  metadata.written_by = "modelopt " + version;
  for (const auto& entry : member(state, "modelopt_state_dict", &Json::is_array, origin)) {
    metadata.modes.push_back(mode_state(entry, computes_as, origin));
  }
  return metadata;
}

CheckpointMetadata read_modelopt_state(const fs::path& folder,
                                       const std::optional<std::string>& numerics) {
  const auto path = folder / kModelOptStateFile;
  return metadata_from_modelopt(TorchFile::open(path)->contents(), path.string(), numerics);
}

void refuse_numerics(const fs::path& record, const std::optional<std::string>& numerics) {
  if (!numerics) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("--reference-numerics {}: {} is no checkpoint of ModelOpt's",
                          printable(*numerics, 60), in_quotes(record.string())),
              "leave it out: a converted model records how it computes");
}

Json without_modelopt_names(Json config) {
  if (!config.is_object()) return config;
  for (const auto& mode : kModes) {
    if (mode.config_key) config.erase(mode.config_key);
  }
  const auto classes = config.find("architectures");
  if (classes == config.end() || !classes->is_array() || classes->empty() ||
      !classes->front().is_string()) {
    return config;
  }
  classes->front() = without_prefixes(classes->front().get<std::string>());
  return config;
}

void write_modelopt_state(const fs::path& folder, const CheckpointMetadata& metadata) {
  const auto state = modelopt_state(metadata);
  if (!state) return;
  const auto is_mode = [](const Json& list) {
    return list.size() == 2 && list[0].is_string() && list[1].is_object();
  };
  write_torch_file(folder / kModelOptStateFile, *state, is_mode);
}

}  // namespace outrider
