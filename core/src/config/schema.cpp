#include "outrider/config/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string_view>
#include <type_traits>
#include <utility>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

constexpr size_t kLongestValue = 60;
constexpr size_t kMostProblems = 100;
constexpr double kTwoTo63 = 9223372036854775808.0;

// --- words -------------------------------------------------------------------------------------

std::string show(const Json& value) {
  return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), kLongestValue);
}

struct TypeWords {
  const char *one, *many, *json_schema;
};

TypeWords words_for(FieldType type) {
  constexpr TypeWords kWords[] = {{"true or false", "booleans", "boolean"},
                                  {"a 64-bit integer", "64-bit integers", "integer"},
                                  {"a finite number", "finite numbers", "number"},
                                  {"a string", "strings", "string"},
                                  {"a list", "lists", "array"},
                                  {"an object", "objects", "object"}};
  return kWords[static_cast<size_t>(type)];
}

std::string bound_words(const FieldInfo& field) {
  if (field.minimum && field.maximum) {
    return fmt::format(" from {} to {}", *field.minimum, *field.maximum);
  }
  if (field.minimum) return fmt::format(" of at least {}", *field.minimum);
  return field.maximum ? fmt::format(" of at most {}", *field.maximum) : "";
}

/// What a field accepts: "a 64-bit integer from 1 to 8 or null".
std::string accepted_words(const FieldInfo& field) {
  std::string words = words_for(field.type).one;
  if (!field.choices.empty()) {
    std::vector<std::string> choices;
    for (const auto& choice : field.choices) choices.push_back(show(choice));
    words = "one of " + join(choices, ", ");
  } else if (field.element) {
    words += std::string(" of ") + words_for(*field.element).many;
  }
  return words + bound_words(field) + (field.nullable ? " or null" : "");
}

// --- values ------------------------------------------------------------------------------------

/// What counts as a blank around a number: Unicode's White_Space.
constexpr std::string_view kBlanks[] = {
    " ",      "\t",     "\n",     "\v",     "\f",     "\r",     "\u0085", "\u00a0", "\u1680",
    "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006", "\u2007", "\u2008",
    "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};

std::string_view trim(std::string_view text) {
  for (size_t before = text.npos; before != text.size();) {
    before = text.size();
    for (const auto blank : kBlanks) {
      if (text.starts_with(blank)) text.remove_prefix(blank.size());
      if (text.ends_with(blank)) text.remove_suffix(blank.size());
    }
  }
  return text;
}

/// The text of a number without its `+` and without single underscores between characters.
std::optional<std::string> plain_number(std::string_view text) {
  text = trim(text);
  if (text.starts_with('+')) {
    text.remove_prefix(1);
    if (text.starts_with('-')) return std::nullopt;
  }
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      plain += text[i];
    } else if (plain.empty() || plain == "-" || i + 1 == text.size() || text[i + 1] == '_') {
      return std::nullopt;
    }
  }
  return plain;
}

template <class Number>
std::optional<Json> parse_whole(const std::string& text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size()) return std::nullopt;
  if (error == std::errc()) return Json(value);
  if constexpr (std::is_floating_point_v<Number>) {
    // Too near to zero, or too far away: strtod rounds it.
    if (error == std::errc::result_out_of_range) return Json(std::strtod(text.data(), nullptr));
  }
  return std::nullopt;
}

/// "7", " +1_000 " and "7.00", but neither "7." nor "7e0".
std::optional<Json> integer_from_text(std::string_view text) {
  text = trim(text);
  if (const size_t point = text.find('.'); point != text.npos) {
    const auto fraction = text.substr(point + 1);
    if (fraction.empty() || fraction.find_first_not_of('0') != fraction.npos) return std::nullopt;
    text = text.substr(0, point);
    if (text != trim(text)) return std::nullopt;
  }
  const auto plain = plain_number(text);
  return plain ? parse_whole<int64_t>(*plain) : std::nullopt;
}

std::optional<Json> to_integer(const Json& value) {
  if (value.is_boolean()) return Json(int64_t{value.get<bool>()});
  if (value.is_string()) return integer_from_text(value.get_ref<const std::string&>());
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return Json(static_cast<int64_t>(number));
  }
  if (value.is_number_integer()) return value;
  if (!value.is_number_float()) return std::nullopt;
  const auto number = value.get<double>();
  if (number != std::trunc(number) || std::fabs(number) >= kTwoTo63) return std::nullopt;
  return Json(static_cast<int64_t>(number));
}

std::optional<Json> to_float(const Json& value) {
  std::optional<Json> number;
  if (value.is_boolean()) {
    number = Json(value.get<bool>() ? 1.0 : 0.0);
  } else if (value.is_number()) {
    number = Json(value.get<double>());
  } else if (value.is_string()) {
    const auto plain = plain_number(value.get_ref<const std::string&>());
    if (plain) number = parse_whole<double>(*plain);
  }
  return number && std::isfinite(number->get<double>()) ? number : std::nullopt;
}

std::optional<Json> to_boolean(const Json& value) {
  if (value.is_boolean()) return value;
  if (value.is_number()) {
    if (value == 0) return Json(false);
    return value == 1 ? std::optional(Json(true)) : std::nullopt;
  }
  if (!value.is_string()) return std::nullopt;
  std::string text = value.get<std::string>();
  for (char& c : text) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  for (const char* word : {"true", "yes", "on", "y", "t", "1"}) {
    if (text == word) return Json(true);
  }
  for (const char* word : {"false", "no", "off", "n", "f", "0"}) {
    if (text == word) return Json(false);
  }
  return std::nullopt;
}

std::optional<Json> to_type(const Json& value, FieldType type) {
  switch (type) {
    case FieldType::kBool:
      return to_boolean(value);
    case FieldType::kInt:
      return to_integer(value);
    case FieldType::kFloat:
      return to_float(value);
    case FieldType::kString:
      return value.is_string() ? std::optional(value) : std::nullopt;
    case FieldType::kList:
      return value.is_array() ? std::optional(value) : std::nullopt;
    case FieldType::kObject:
      break;
  }
  return value.is_object() ? std::optional(value) : std::nullopt;
}

/// Brings the elements of a list to their declared type; the index of the first that is not of it.
std::optional<size_t> convert_elements(Json& list, FieldType type) {
  for (size_t i = 0; i < list.size(); ++i) {
    auto element = to_type(list[i], type);
    if (!element) return i;
    list[i] = std::move(*element);
  }
  return std::nullopt;
}

bool is_allowed(const Json& value, const FieldInfo& field) {
  if (value.is_number()) {
    const auto number = value.get<double>();
    if (field.minimum && number < *field.minimum) return false;
    if (field.maximum && number > *field.maximum) return false;
  }
  return field.choices.empty() ||
         std::find(field.choices.begin(), field.choices.end(), value) != field.choices.end();
}

// --- JSON Schema -------------------------------------------------------------------------------

Json schema_bound(double bound, FieldType type) {
  const bool is_whole = type == FieldType::kInt && bound >= -kTwoTo63 && bound < kTwoTo63;
  return is_whole ? Json(static_cast<int64_t>(bound)) : Json(bound);
}

Json property(const FieldInfo& field) {
  Json json = {{"description", field.description}, {"default", field.default_value}};
  const char* type = words_for(field.type).json_schema;
  json["type"] = field.nullable ? Json::array({type, "null"}) : Json(type);
  if (field.element) json["items"] = {{"type", words_for(*field.element).json_schema}};
  if (field.minimum) json["minimum"] = schema_bound(*field.minimum, field.type);
  if (field.maximum) json["maximum"] = schema_bound(*field.maximum, field.type);
  if (!field.choices.empty()) {
    json["enum"] = field.choices;
    if (field.nullable) json["enum"].push_back(nullptr);
  }
  if (field.extension) json["x-outrider-extension"] = true;
  return json;
}

// --- problems ----------------------------------------------------------------------------------

std::string pointer_to(std::string_view key) {
  std::string pointer = "/";
  for (const char c : key) {
    if (c == '~') {
      pointer += "~0";
    } else if (c == '/') {
      pointer += "~1";
    } else {
      pointer += c;
    }
  }
  return pointer;
}

std::vector<ConfigProblem> unknown_keys(const Json& user, const std::vector<FieldInfo>& fields) {
  std::vector<std::string> known;
  for (const auto& field : fields) known.push_back(field.name);
  std::vector<ConfigProblem> problems;
  for (const auto& [key, value] : user.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    if (problems.size() == kMostProblems) break;
    problems.push_back({pointer_to(key), "unknown key; " + suggestion(key, known)});
  }
  return problems;
}

[[noreturn]] void refuse(const std::string& title, const std::vector<ConfigProblem>& problems) {
  std::vector<std::string> lines;
  for (const auto& [pointer, message] : problems) {
    lines.push_back((pointer.empty() ? "" : printable(pointer) + ": ") + message);
  }
  throw Error(
      ErrorCode::kInvalidConfig, title + " is not valid:" + indented(lines, kMostProblems),
      "`outrider mode show NAME --schema` prints every key with its type, range and default");
}

}  // namespace

ConfigSchema::ConfigSchema(std::string title, int version)
    : title_(std::move(title)), version_(version) {}

ConfigSchema::~ConfigSchema() = default;

std::vector<ConfigProblem> ConfigSchema::cross_check(const Json&) const { return {}; }

void ConfigSchema::add_field(FieldInfo field) { fields_.push_back(std::move(field)); }

Json ConfigSchema::resolve(const Json& user) const {
  if (!user.is_object()) {
    refuse(title_, {{"", fmt::format("got {}, expected an object", show(user))}});
  }
  auto problems = unknown_keys(user, fields_);
  bool all_typed = true;
  Json resolved = Json::object();
  for (const auto& field : fields_) {
    resolved[field.name] = field.default_value;
    const auto given = user.find(field.name);
    if (given == user.end()) continue;
    std::string problem;
    if (auto value = coerce(*given, field, problem)) {
      resolved[field.name] = std::move(*value);
    } else {
      problems.push_back({pointer_to(field.name), std::move(problem)});
      all_typed = false;
    }
  }
  // A rule between fields means nothing while one of them has no value.
  if (all_typed) {
    for (auto& problem : cross_check(resolved)) problems.push_back(std::move(problem));
  }
  if (!problems.empty()) refuse(title_, problems);
  return resolved;
}

Json ConfigSchema::json_schema() const {
  Json properties = Json::object();
  for (const auto& field : fields_) properties[field.name] = property(field);
  return {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
          {"title", title_},
          {"type", "object"},
          {"properties", std::move(properties)},
          {"additionalProperties", false}};
}

std::optional<Json> coerce(const Json& value, const FieldInfo& field, std::string& problem) {
  if (field.nullable && value.is_null()) return value;
  auto typed = to_type(value, field.type);
  std::string where;
  if (typed && field.element) {
    if (const auto bad = convert_elements(*typed, *field.element)) {
      where = fmt::format(" with {} at index {}", show(value[*bad]), *bad);
      typed.reset();
    }
  }
  if (typed && is_allowed(*typed, field)) return typed;
  problem = fmt::format("got {}{}, expected {}", show(value), where, accepted_words(field));
  return std::nullopt;
}

}  // namespace outrider
