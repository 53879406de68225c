#include "outrider/model/rope_config.h"

#include <fmt/format.h>

#include <map>
#include <set>
#include <vector>

#include "model/config_reader.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

// Parameters each type needs, and those it may have.
struct TypeKeys {
  std::vector<const char*> required, optional;
};

const std::map<std::string, TypeKeys>& known_types() {
  static const auto& types = *new std::map<std::string, TypeKeys>{
      {"default", {{}, {}}},
      {"linear", {{"factor"}, {}}},
      {"dynamic", {{"factor"}, {}}},
      {"llama3",
       {{"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}, {}}},
      {"yarn",
       {{},
        {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast",
         "beta_slow", "mscale", "mscale_all_dim"}}}};
  return types;
}

std::vector<std::string> type_names() {
  std::vector<std::string> names;
  for (const auto& [name, keys] : known_types()) names.push_back(name);
  return names;
}

const Json& rope_dictionary(const Json& config, const std::string& origin) {
  static const Json& nothing = *new Json(Json::object());
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    if (!found->is_object()) {
      throw Error(ErrorCode::kInvalidConfig, fmt::format("{}: '{}' is no object", origin, key));
    }
    return *found;
  }
  return nothing;
}

void check_parameters(const Json& dictionary, const std::string& type, const std::string& origin) {
  const auto& keys = known_types().at(type);
  ConfigReader reader(dictionary, origin + ", rope parameters");
  for (const char* key : keys.required) reader.number(key);
  for (const char* key : keys.optional) reader.number(key, 0.0);
  for (const char* key : {"factor", "original_max_position_embeddings"}) {
    if (reader.has(key) && reader.number(key) <= 0) reader.problem(fmt::format("'{}' must be positive", key));
  }
  if (reader.has("partial_rotary_factor") && reader.number("partial_rotary_factor") != 1.0) {
    reader.problem("'partial_rotary_factor' other than 1 is not supported");
  }
  reader.boolean("truncate", true);
  reader.finish();
}

}  // namespace

RopeConfig RopeConfig::from_json(const Json& config, const std::string& origin) {
  const Json& dictionary = rope_dictionary(config, origin);
  ConfigReader outer(config, origin), inner(dictionary, origin + ", rope parameters");
  RopeConfig rope;
  rope.type = inner.text("rope_type", inner.text("type", "default"));
  rope.theta = inner.number("rope_theta", outer.number("rope_theta", 10000.0));
  rope.max_position_embeddings = outer.integer("max_position_embeddings", 2048);
  if (rope.theta <= 1.0) outer.problem("'rope_theta' must be above 1");
  outer.finish();
  inner.finish();
  if (!known_types().contains(rope.type)) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: rope type '{}' is not known", origin, printable(rope.type)),
                suggestion(rope.type, type_names()));
  }
  check_parameters(dictionary, rope.type, origin);
  rope.parameters = dictionary;
  return rope;
}

}  // namespace outrider
