#include "cli/schema_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "outrider/error.h"

namespace outrider::cli {
namespace {

std::string option_name(std::string field) {
  std::ranges::replace(field, '_', '-');
  return "--" + field;
}

std::string shown(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.is_number_float() ? fmt::format("{:g}", value.get<double>()) : value.dump();
}

template <class T>
CLI::Option* add(CLI::App& verb, const FieldInfo& field, const std::shared_ptr<Json>& given) {
  const auto keep = [given, name = field.name](const T& value) { (*given)[name] = value; };
  return verb.add_option_function<T>(option_name(field.name), keep, field.description)
      ->default_str(shown(field.default_value));
}

void add_flag(CLI::App& verb, const FieldInfo& field, const std::shared_ptr<Json>& given) {
  verb.add_flag_callback(
      option_name(field.name), [given, name = field.name] { (*given)[name] = true; },
      field.description);
}

}  // namespace

std::shared_ptr<const Json> add_schema_options(CLI::App& verb, const ConfigSchema& schema) {
  const auto given = std::make_shared<Json>(Json::object());
  for (const auto& field : schema.fields()) {
    switch (field.type) {
      case FieldType::kInt:
        add<int64_t>(verb, field, given);
        break;
      case FieldType::kFloat:
        add<double>(verb, field, given);
        break;
      case FieldType::kString:
        add<std::string>(verb, field, given);
        break;
      case FieldType::kBool:
        add_flag(verb, field, given);
        break;
      default:
        throw Error(ErrorCode::kInternal,
                    fmt::format("field '{}' has no form on the command line", field.name));
    }
  }
  return given;
}

}  // namespace outrider::cli
