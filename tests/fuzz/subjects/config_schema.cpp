#include "outrider/config/schema.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "subject.h"

namespace outrider::fuzz {
namespace {

/// Fields that are all the input's.
class ForeignSchema final : public ConfigSchema {
 public:
  explicit ForeignSchema(const Json& fields) : ConfigSchema("ForeignConfig", 1) {
    if (!fields.is_object()) return;
    for (const auto& [name, field] : fields.items()) add_field(make_field(name, field));
  }

 private:
  static FieldType type_of(const Json& json) {
    return static_cast<FieldType>(json.is_number_unsigned() ? json.get<uint64_t>() % 6 : 3);
  }

  static std::optional<double> bound_of(const Json& json) {
    return json.is_number() ? std::optional(json.get<double>()) : std::nullopt;
  }

  static FieldInfo make_field(const std::string& name, const Json& json) {
    const auto member = [&](const char* key) {
      return json.is_object() ? json.value(key, Json()) : Json();
    };
    FieldInfo field{.name = name, .description = name, .type = type_of(member("type"))};
    if (!member("element").is_null()) field.element = type_of(member("element"));
    // Only lists have elements.
    if (field.type != FieldType::kList) field.element.reset();
    field.minimum = bound_of(member("minimum"));
    field.maximum = bound_of(member("maximum"));
    field.nullable = member("nullable") == true;
    field.default_value = member("default");
    if (member("choices").is_array()) field.choices = member("choices").get<std::vector<Json>>();
    return field;
  }
};

std::vector<std::string> config_schema_seeds() {
  return {
      R"({"fields":{"steps":{"type":1,"minimum":1,"maximum":8,"default":2},)"
      R"("ids":{"type":4,"element":1,"default":[]},"loss":{"type":3,"choices":["kl","ce"]},)"
      R"("decay":{"type":2,"nullable":true},"on":{"type":0,"default":false},"more":{"type":5}},)"
      R"("user":{"steps":"4","ids":[1,"2",3.0],"loss":"ce","decay":null,"on":"yes","more":{}}})",
      R"({"fields":{"big":{"type":1,"minimum":-1e300,"maximum":1e300}},"user":{"big":7}})"};
}

/// A user's values are resolved to ones that resolve to themselves, and the schema is JSON.
void read_config_schema(const std::string& bytes) {
  const auto input = parse_json(bytes, "fuzzed");
  if (!input.is_object()) return;
  const ForeignSchema schema(input.value("fields", Json()));
  schema.json_schema().dump();
  const auto user = input.value("user", Json());
  const auto resolved = schema.resolve(user);
  Json given = Json::object();
  for (const auto& [key, value] : user.items()) given[key] = resolved.at(key);
  require(schema.resolve(given) == resolved, "resolved values resolve to themselves");
}

}  // namespace

const Subject kConfigSchema{"config_schema", config_schema_seeds, read_config_schema,
                            "{}[]\",:0123456789-.e_+ tn"};

}  // namespace outrider::fuzz
