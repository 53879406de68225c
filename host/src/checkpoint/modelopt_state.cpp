#include "modelopt_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>

#include "outrider/checkpoint/torch_file.h"
#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/text.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

// ModelOpt's states say no plugin: whichever provides the mode restores it.
std::optional<ModelOptMapping> mapping_of(const std::string& mode) {
  try {
    return plugin_loader().load_mode(mode).descriptor->modelopt_mapping();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnknownMode) throw;
    return std::nullopt;
  }
}

std::vector<std::string> mapped_modes() {
  std::vector<std::string> mapped;
  for (const auto& mode : plugin_loader().modes()) {
    try {
      if (mapping_of(mode)) mapped.push_back(mode);
    } catch (const Error&) {  // a plugin that cannot be loaded maps nothing
    }
  }
  return mapped;
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

Error cannot_restore(const std::string& mode, const std::string& origin) {
  const auto mapped = mapped_modes();
  return Error(ErrorCode::kUnknownMode,
               fmt::format("{}: ModelOpt's mode {} cannot be restored", in_quotes(origin),
                           in_quotes(mode, 60)),
               mapped.empty() ? "no installed plugin restores a mode of ModelOpt's"
                              : "restored are the modes " + join(mapped, " and "));
}

ModeState mode_state(const Json& entry, const std::string& numerics, const std::string& origin) {
  if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string()) {
    throw invalid(origin, "an entry of 'modelopt_state_dict' is no pair of a name and its state");
  }
  const auto name = entry[0].get<std::string>();
  const auto mapping = mapping_of(name);
  if (!mapping) throw cannot_restore(name, origin);
  if (!member(entry[1], "metadata", &Json::is_object, origin).empty()) {
    throw invalid(origin, fmt::format("mode '{}' has metadata, which ModelOpt never writes", name));
  }
  const auto& plugin = mode_registry().get(name).plugin.name;
  ModeState state{.mode = name, .plugin = {.name = plugin, .range = "*"}};
  state.config = member(entry[1], "config", &Json::is_object, origin);
  if (mapping->read) state.config = mapping->read(std::move(state.config), numerics);
  state.metadata = {{"reference_numerics", numerics}};
  return state;
}

/// "EagleLlamaForCausalLM" → "LlamaForCausalLM".
std::string without_prefixes(std::string class_name, const std::vector<ModelOptMapping>& mappings) {
  for (bool found = true; found;) {
    found = false;
    for (const auto& mapping : mappings) {
      if (mapping.class_prefix.empty() || !class_name.starts_with(mapping.class_prefix)) continue;
      class_name.erase(0, mapping.class_prefix.size());
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

/// What modelopt_state.pth says, or nothing.
std::optional<Json> modelopt_state(const CheckpointMetadata& metadata) {
  if (metadata.modes.size() != 1) return std::nullopt;
  const auto& state = metadata.modes.front();
  const auto& mode = mode_registry().get(state.mode);
  const auto mapping = mode.descriptor->modelopt_mapping();
  const auto numerics = state.metadata.value("reference_numerics", Json());
  if (!mapping || state.plugin.name != mode.plugin.name || !state.requirements.empty() ||
      (mapping->needs_reference_numerics && !numerics.is_string())) {
    return std::nullopt;
  }
  const std::string release = numerics == "0.42" ? "0.42" : "0.47";
  auto config = config_for_modelopt(state);
  if (!config) return std::nullopt;
  if (mapping->write) config = mapping->write(*std::move(config), release);
  const Json entry = {{"config", std::move(*config)}, {"metadata", Json::object()}};
  return Json{{"modelopt_state_dict", Json::array({Json::array({state.mode, entry})})},
              {"modelopt_version", release + ".0"}};
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

Json without_modelopt_names(Json config, const CheckpointMetadata& metadata) {
  if (!config.is_object()) return config;
  std::vector<ModelOptMapping> mappings;
  for (const auto& state : metadata.modes) {
    if (auto mapping = mapping_of(state.mode)) mappings.push_back(*std::move(mapping));
  }
  for (const auto& mapping : mappings) {
    if (!mapping.config_key.empty()) config.erase(mapping.config_key);
  }
  const auto classes = config.find("architectures");
  if (classes == config.end() || !classes->is_array() || classes->empty() ||
      !classes->front().is_string()) {
    return config;
  }
  classes->front() = without_prefixes(classes->front().get<std::string>(), mappings);
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
