#pragma once

#include <optional>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

enum class FieldType { kBool, kInt, kFloat, kString, kList, kObject };

/// One key of a config, as the host, the command line and the documentation see it.
struct FieldInfo {
  std::string name{}, description{};
  FieldType type = FieldType::kString;
  std::optional<FieldType> element{};  // what a list holds; unset: anything
  Json default_value{};
  bool nullable = false;
  std::optional<double> minimum{}, maximum{};  // of a number, inclusive
  std::vector<Json> choices{};
  /// Not known to ModelOpt: its default keeps the reference's behaviour.
  bool extension = false;
};

/// A problem with one value, at a JSON pointer such as "/eagle_ttt_steps".
struct ConfigProblem {
  std::string pointer, message;
};

/// The description of a mode's config. Values are accepted as ModelOpt's classes accept them:
/// numeric strings and integral floats for integers, "true"/"yes"/1 for booleans, and so on.
class OUTRIDER_API ConfigSchema {
 public:
  virtual ~ConfigSchema();

  const std::string& title() const { return title_; }
  int version() const { return version_; }
  const std::vector<FieldInfo>& fields() const { return fields_; }

  /// The user's values over the defaults, every key present and of its declared type.
  /// Throws kInvalidConfig that lists every problem at once: unknown keys with the nearest known
  /// names, wrong types, ranges, choices, and broken cross-field rules.
  Json resolve(const Json& user) const;

  /// JSON Schema, draft 2020-12, additionalProperties false.
  Json json_schema() const;

 protected:
  ConfigSchema(std::string title, int version);

  /// Problems between fields; `resolved` has every key in its declared type.
  virtual std::vector<ConfigProblem> cross_check(const Json& resolved) const;

  void add_field(FieldInfo field);

 private:
  std::string title_;
  int version_;
  std::vector<FieldInfo> fields_;
};

/// One value in the type that `field` declares, or what is wrong with it in `problem`.
OUTRIDER_API std::optional<Json> coerce(const Json& value, const FieldInfo& field,
                                        std::string& problem);

}  // namespace outrider
