#pragma once

#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "outrider/config/field_type_of.h"
#include "outrider/config/schema.h"

namespace outrider {

/// Bounds (of a number, inclusive) and choices; null, where it is allowed, is outside of them.
template <class T>
struct Constraint {
  std::optional<T> minimum{}, maximum{};
  std::vector<T> choices{};
  bool extension = false;
};

/// A schema derived from a plain struct: the default of a field is its member's initialiser.
///
///     struct MyConfig { int64_t heads = 2; };
///     StructSchema<MyConfig> schema("MyConfig");
///     schema.field("heads", &MyConfig::heads, "Number of heads.", {.minimum = 1});
///
/// Member types: bool, int64_t, double, std::string, std::vector of those and of Json (anything),
/// Json (an object), and std::optional of each (null allowed).
template <class Config>
class StructSchema final : public ConfigSchema {
 public:
  explicit StructSchema(std::string title, int version = 1)
      : ConfigSchema(std::move(title), version) {}

  template <class T>
  StructSchema& field(const std::string& name, T Config::*member, const std::string& description,
                      const Constraint<typename detail::Member<T>::Value>& constraint = {}) {
    using Value = typename detail::Member<T>::Value;
    constexpr const Value* kTag = nullptr;
    FieldInfo info{.name = name,
                   .description = description,
                   .type = detail::type_of(kTag),
                   .element = detail::element_of(kTag),
                   .default_value = to_json(Config{}.*member),
                   .nullable = detail::Member<T>::kNullable};
    info.extension = constraint.extension;
    if constexpr (std::is_arithmetic_v<Value>) {
      if (constraint.minimum) info.minimum = static_cast<double>(*constraint.minimum);
      if (constraint.maximum) info.maximum = static_cast<double>(*constraint.maximum);
    }
    for (const auto& choice : constraint.choices) info.choices.push_back(to_json(choice));
    add_field(std::move(info));
    readers_.push_back([name, member](const Json& json, Config& config) {
      from_json(json.at(name), config.*member);
    });
    writers_.push_back(
        [name, member](const Config& config, Json& json) { json[name] = to_json(config.*member); });
    return *this;
  }

  /// A rule between fields: returns nothing, or the problem and the field it is reported at.
  StructSchema& check(std::function<std::optional<ConfigProblem>(const Config&)> rule) {
    rules_.push_back(std::move(rule));
    return *this;
  }

  Config parse(const Json& user) const { return read(resolve(user)); }

  /// What parse() makes of resolved values, which are of the declared types; looks at no range.
  Config read(const Json& resolved) const {
    Config config;
    for (const auto& reader : readers_) reader(resolved, config);
    return config;
  }

  Json dump(const Config& config) const {
    Json json = Json::object();
    for (const auto& write : writers_) write(config, json);
    return json;
  }

 private:
  template <class T>
  static Json to_json(const T& value) {
    if constexpr (detail::Member<T>::kNullable) {
      return value ? Json(*value) : Json(nullptr);
    } else {
      return Json(value);
    }
  }

  template <class T>
  static void from_json(const Json& json, T& value) {
    if constexpr (detail::Member<T>::kNullable) {
      if (json.is_null()) return value.reset();
      value = json.get<typename detail::Member<T>::Value>();
    } else {
      value = json.get<T>();
    }
  }

  std::vector<ConfigProblem> cross_check(const Json& resolved) const override {
    std::vector<ConfigProblem> problems;
    if (rules_.empty()) return problems;
    const Config config = read(resolved);
    for (const auto& rule : rules_) {
      if (auto problem = rule(config)) problems.push_back(*problem);
    }
    return problems;
  }

  std::vector<std::function<void(const Json&, Config&)>> readers_;
  std::vector<std::function<void(const Config&, Json&)>> writers_;
  std::vector<std::function<std::optional<ConfigProblem>(const Config&)>> rules_;
};

}  // namespace outrider
