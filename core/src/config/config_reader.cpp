#include "config/config_reader.h"

#include <fmt/format.h>

#include <cmath>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {

ConfigReader::ConfigReader(const Json& json, std::string origin)
    : json_(json), origin_(std::move(origin)) {}

bool ConfigReader::has(const char* key) const {
  const auto found = json_.find(key);
  return found != json_.end() && !found->is_null();
}

const Json* ConfigReader::find(const char* key, bool required) {
  if (has(key)) return &json_.at(key);
  if (required) problem(fmt::format("'{}' is missing", key));
  return nullptr;
}

void ConfigReader::mistyped(const char* key, const Json& value, const char* expected) {
  problem(fmt::format("'{}' is {}, expected {}", key, printable(value.dump(), 60), expected));
}

int64_t ConfigReader::integer(const char* key, std::optional<int64_t> fallback, int64_t minimum,
                              int64_t maximum) {
  const Json* value = find(key, !fallback);
  if (!value) return fallback.value_or(minimum);
  if (!value->is_number_integer()) {
    mistyped(key, *value, "an integer");
    return minimum;
  }
  const auto number = value->get<int64_t>();
  if (number < minimum || number > maximum) {
    problem(fmt::format("'{}' is {}, expected {} to {}", key, number, minimum, maximum));
    return minimum;
  }
  return number;
}

double ConfigReader::number(const char* key, std::optional<double> fallback) {
  const Json* value = find(key, !fallback);
  if (!value) return fallback.value_or(0.0);
  if (!value->is_number() || !std::isfinite(value->get<double>())) {
    mistyped(key, *value, "a number");
    return 0.0;
  }
  return value->get<double>();
}

bool ConfigReader::boolean(const char* key, bool fallback) {
  const Json* value = find(key, false);
  if (!value) return fallback;
  if (!value->is_boolean()) {
    mistyped(key, *value, "true or false");
    return fallback;
  }
  return value->get<bool>();
}

std::string ConfigReader::text(const char* key, const std::optional<std::string>& fallback) {
  const Json* value = find(key, !fallback);
  if (!value) return fallback.value_or("");
  if (!value->is_string()) {
    mistyped(key, *value, "a string");
    return "";
  }
  return value->get<std::string>();
}

void ConfigReader::finish() const { problems_.throw_in_a_line(ErrorCode::kInvalidConfig, origin_); }

}  // namespace outrider
