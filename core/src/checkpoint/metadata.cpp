#include "outrider/checkpoint/metadata.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>

#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/problems.h"
#include "outrider/text.h"
#include "outrider/version.h"

namespace outrider {
namespace {

constexpr JsonLimits kLimits{.bytes = 1u << 20, .depth = 32};
constexpr size_t kMostModes = 64;
constexpr size_t kLongestName = 63;

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kLongestName && text[0] >= 'a' && text[0] <= 'z' &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
         });
}

bool is_sha256_or_empty(std::string_view text) {
  return text.empty() || (text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
                            return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                          }));
}

template <class Version>
bool parses_as(const std::string& text) {
  try {
    Version::parse(text);
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// Reads the members of one object and notes everything that is wrong with them.
class ObjectReader {
 public:
  ObjectReader(const Json& json, std::string pointer, Problems& problems)
      : json_(json), pointer_(std::move(pointer)), problems_(problems) {
    if (!json.is_object()) note("", "must be an object");
  }

  std::string text(const char* key) { return member<std::string>(key, "string", is_string); }
  Json object(const char* key) { return member<Json>(key, "object", is_object); }
  Json array(const char* key) { return member<Json>(key, "array", is_array); }
  int version(const char* key) { return member<int>(key, "integer of at least 1", is_version); }

  /// A text that must satisfy `accepted`; `expected` describes that.
  template <class Accepted>
  std::string text(const char* key, Accepted accepted, const char* expected) {
    const size_t before = problems_.all().size();
    std::string value = text(key);
    if (json_.is_object() && problems_.all().size() == before && !accepted(value)) {
      note(key, fmt::format("is {}, but must be {}", in_quotes(value, 80), expected));
    }
    return value;
  }

  /// Notes the members that nobody asked for.
  void finish() {
    if (!json_.is_object()) return;
    for (const auto& [key, value] : json_.items()) {
      if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) {
        note(key, "is an unknown key; " + suggestion(key, asked_));
      }
    }
  }

  std::string pointer_to(std::string_view key) const { return pointer_ + "/" + printable(key, 80); }

  void note(std::string_view key, const std::string& problem) {
    const std::string where = key.empty() ? pointer_ : pointer_to(key);
    problems_.add((where.empty() ? "the file" : where) + " " + problem);
  }

 private:
  static bool is_string(const Json& json) { return json.is_string(); }
  static bool is_object(const Json& json) { return json.is_object(); }
  static bool is_array(const Json& json) { return json.is_array(); }
  static bool is_version(const Json& json) {
    return json.is_number_integer() && json >= 1 && json <= std::numeric_limits<int>::max();
  }

  template <class T>
  T member(const char* key, const char* type, bool (*accepted)(const Json&)) {
    asked_.push_back(key);
    if (!json_.is_object()) return T();
    const auto found = json_.find(key);
    if (found == json_.end()) {
      note(key, "is missing");
    } else if (!accepted(*found)) {
      note(key, fmt::format("must be of type {}", type));
    } else {
      return found->get<T>();
    }
    return T();
  }

  const Json& json_;
  std::string pointer_;
  Problems& problems_;
  std::vector<std::string> asked_;
};

PluginRef read_plugin(const Json& json, const std::string& pointer, Problems& problems) {
  ObjectReader reader(json, pointer, problems);
  PluginRef plugin;
  plugin.name = reader.text("name", is_name, "a name: [a-z][a-z0-9_]{0,62}");
  plugin.version = reader.text("version", parses_as<SemVer>, "a version such as 1.2.3");
  plugin.range = reader.text("range", parses_as<VersionRange>, "a version range such as ^1.2");
  plugin.sha256 =
      reader.text("sha256", is_sha256_or_empty, "64 lower-case hexadecimal digits, or empty");
  reader.finish();
  return plugin;
}

std::vector<PluginRef> read_requirements(ObjectReader& reader, Problems& problems) {
  std::vector<PluginRef> plugins;
  const Json json = reader.array("requires");
  if (json.size() > kMostModes) {
    reader.note("requires",
                fmt::format("has {} entries; at most {} are accepted", json.size(), kMostModes));
    return plugins;
  }
  for (const auto& plugin : json) {
    const auto pointer = fmt::format("{}/{}", reader.pointer_to("requires"), plugins.size());
    plugins.push_back(read_plugin(plugin, pointer, problems));
  }
  return plugins;
}

ModeState read_mode(const Json& json, const std::string& pointer, Problems& problems) {
  ObjectReader reader(json, pointer, problems);
  ModeState mode;
  mode.mode = reader.text("mode", is_name, "a name: [a-z][a-z0-9_]{0,62}");
  if (const Json plugin = reader.object("plugin"); plugin.is_object()) {
    mode.plugin = read_plugin(plugin, reader.pointer_to("plugin"), problems);
  }
  mode.config_version = reader.version("config_version");
  mode.config = reader.object("config");
  mode.metadata = reader.object("metadata");
  if (json.is_object() && json.contains("requires")) {
    mode.requirements = read_requirements(reader, problems);
  }
  reader.finish();
  return mode;
}

std::vector<ModeState> read_modes(ObjectReader& reader, Problems& problems) {
  std::vector<ModeState> modes;
  const Json json = reader.array("modes");
  if (json.size() > kMostModes) {
    reader.note("modes",
                fmt::format("has {} entries; at most {} are accepted", json.size(), kMostModes));
    return modes;
  }
  for (const auto& mode : json) {
    modes.push_back(read_mode(mode, fmt::format("/modes/{}", modes.size()), problems));
  }
  return modes;
}

void refuse_newer(const Json& json, const std::string& origin) {
  const auto found = json.is_object() ? json.find("format_version") : json.end();
  if (found == json.end() || !found->is_number_integer()) return;
  if (found->get<double>() <= CheckpointMetadata::kFormatVersion) return;
  throw Error(
      ErrorCode::kIncompatibleCheckpoint,
      fmt::format("{} has format_version {}; this build ({}) reads versions up to {}",
                  in_quotes(origin), found->dump(), version(), CheckpointMetadata::kFormatVersion),
      "use the newer Outrider that wrote it");
}

Json to_json(const PluginRef& plugin) {
  return {{"name", plugin.name},
          {"version", plugin.version},
          {"range", plugin.range},
          {"sha256", plugin.sha256}};
}

Json to_json(const ModeState& mode) {
  Json json = {{"mode", mode.mode},
               {"plugin", to_json(mode.plugin)},
               {"config_version", mode.config_version},
               {"config", mode.config},
               {"metadata", mode.metadata}};
  for (const auto& plugin : mode.requirements) json["requires"].push_back(to_json(plugin));
  return json;
}

}  // namespace

CheckpointMetadata CheckpointMetadata::read(const std::filesystem::path& folder) {
  const auto path = folder / kFileName;
  return from_json(read_json_file(path, kLimits), path.string());
}

CheckpointMetadata CheckpointMetadata::from_json(const Json& json, const std::string& origin) {
  refuse_newer(json, origin);
  Problems problems;
  ObjectReader reader(json, "", problems);
  CheckpointMetadata state;
  state.format_version = reader.version("format_version");
  state.written_by = reader.text("written_by");
  state.base_model = reader.object("base_model");
  state.modes = read_modes(reader, problems);
  reader.finish();
  problems.throw_in_lines(
      ErrorCode::kInvalidFile, in_quotes(origin) + " is not a valid Outrider state",
      "restore the file from where the checkpoint came from; it is not meant to be edited");
  return state;
}

void CheckpointMetadata::write(const std::filesystem::path& folder) const {
  const auto path = folder / kFileName;
  const Json json = to_json();
  // What read() would refuse must not be written.
  from_json(parse_json(json.dump(2), path.string(), kLimits), path.string());
  write_json_file(path, json);
}

Json CheckpointMetadata::to_json() const {
  Json list = Json::array();
  for (const auto& mode : modes) list.push_back(outrider::to_json(mode));
  return {{"format_version", format_version},
          {"written_by", written_by},
          {"base_model", base_model},
          {"modes", std::move(list)}};
}

}  // namespace outrider
