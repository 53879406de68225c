#include "outrider/config/rope_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "config/config_reader.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

// Parameters each type needs, and those it may have; lists of numbers are needed.
struct TypeKeys {
  std::vector<const char*> required, optional, lists = {};
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
        {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
         "mscale", "mscale_all_dim"}}},
      {"longrope",
       {{"original_max_position_embeddings"},
        {"factor", "attention_factor"},
        {"short_factor", "long_factor"}}}};
  return types;
}

std::vector<std::string> type_names() {
  std::vector<std::string> names;
  for (const auto& [name, keys] : known_types()) names.push_back(name);
  return names;
}

const Json& rope_dictionary(const Json& config, const std::string& origin) {
  static const Json& nothing = *new Json(Json::object());
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null() || found->empty()) continue;
    if (!found->is_object()) {
      throw Error(ErrorCode::kInvalidConfig, fmt::format("{}: '{}' is no object", origin, key));
    }
    return *found;
  }
  return nothing;
}

// What some type reads, or no computation depends on. Another type's parameters are without effect,
// as in transformers; anything else may have one.
const std::set<std::string>& readable_keys() {
  static const auto& keys = *[] {
    auto* all = new std::set<std::string>{
        "rope_type", "type", "rope_theta", "truncate", "partial_rotary_factor", "finetuned"};
    for (const auto& [name, of_type] : known_types()) {
      all->insert(of_type.required.begin(), of_type.required.end());
      all->insert(of_type.optional.begin(), of_type.optional.end());
      all->insert(of_type.lists.begin(), of_type.lists.end());
    }
    return all;
  }();
  return keys;
}

void check_names(const Json& dictionary, ConfigReader& reader) {
  for (const auto& [key, value] : dictionary.items()) {
    if (readable_keys().contains(key) || value.is_null()) continue;
    reader.problem(fmt::format("{} is not known", in_quotes(key)));
  }
}

bool are_positive_numbers(const Json& list) {
  return list.is_array() && std::ranges::all_of(list, [](const Json& value) {
           return value.is_number() && std::isfinite(value.get<double>()) && value > 0;
         });
}

// As transformers has it: beside the dictionary where that has none, and else the whole length.
Json with_original_length(Json dictionary, const Json& config, int64_t max_position_embeddings) {
  constexpr const char* kKey = "original_max_position_embeddings";
  if (!dictionary.value(kKey, Json()).is_null()) return dictionary;
  const auto beside = config.value(kKey, Json());
  dictionary[kKey] = beside.is_null() ? Json(max_position_embeddings) : beside;
  return dictionary;
}

void check_parameters(const Json& dictionary, const std::string& type, const std::string& origin) {
  const auto& keys = known_types().at(type);
  ConfigReader reader(dictionary, origin + ", rope parameters");
  for (const char* key : keys.required) reader.number(key);
  for (const char* key : keys.optional) reader.number(key, 0.0);
  for (const char* key : {"factor", "original_max_position_embeddings"}) {
    if (reader.has(key) && reader.number(key) <= 0)
      reader.problem(fmt::format("'{}' must be positive", key));
  }
  for (const char* key : keys.lists) {
    if (!are_positive_numbers(dictionary.value(key, Json()))) {
      reader.problem(fmt::format("'{}' must be a list of positive numbers", key));
    }
  }
  reader.boolean("truncate", true);
  check_names(dictionary, reader);
  reader.finish();
}

void check_partial_rotation(double factor, bool allowed, ConfigReader& reader) {
  if (factor <= 0.0 || factor > 1.0) {
    reader.problem("'partial_rotary_factor' must be above 0 and at most 1");
  } else if (factor != 1.0 && !allowed) {
    reader.problem("'partial_rotary_factor' other than 1 is not supported");
  }
}

}  // namespace

RopeConfig RopeConfig::from_json(const Json& config, const std::string& origin,
                                 bool allow_partial_rotation) {
  const Json& dictionary = rope_dictionary(config, origin);
  ConfigReader outer(config, origin), inner(dictionary, origin + ", rope parameters");
  RopeConfig rope;
  rope.type = inner.text("rope_type", inner.text("type", "default"));
  rope.theta = inner.number("rope_theta", outer.number("rope_theta", 10000.0));
  rope.max_position_embeddings = outer.integer("max_position_embeddings", 2048);
  rope.partial_rotary_factor =
      inner.number("partial_rotary_factor", outer.number("partial_rotary_factor", 1.0));
  check_partial_rotation(rope.partial_rotary_factor, allow_partial_rotation, outer);
  if (rope.theta <= 1.0) outer.problem("'rope_theta' must be above 1");
  outer.finish();
  inner.finish();
  if (!known_types().contains(rope.type)) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: rope type '{}' is not known", origin, printable(rope.type)),
                suggestion(rope.type, type_names()));
  }
  rope.parameters = rope.type == "longrope"
                        ? with_original_length(dictionary, config, rope.max_position_embeddings)
                        : dictionary;
  check_parameters(rope.parameters, rope.type, origin);
  return rope;
}

}  // namespace outrider
