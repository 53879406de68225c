#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "outrider/config/schema.h"

namespace outrider {

/// What StructSchema makes of a member's type: the field's type, that of a list's elements, and
/// whether null is allowed. Types that a field cannot have do not compile.
namespace detail {

template <class T>
struct Member {
  using Value = T;
  static constexpr bool kNullable = false;
};
template <class T>
struct Member<std::optional<T>> {
  using Value = T;
  static constexpr bool kNullable = true;
};

template <class T>
constexpr bool kNeverTrue = false;

template <class T>
constexpr FieldType type_of(const T*) {
  static_assert(kNeverTrue<T>,
                "a config field is a bool, int64_t (for every integer), double (for every other "
                "number), std::string, Json (an object), std::vector of those, or std::optional of "
                "each");
  return FieldType::kObject;
}
constexpr FieldType type_of(const bool*) { return FieldType::kBool; }
constexpr FieldType type_of(const int64_t*) { return FieldType::kInt; }
constexpr FieldType type_of(const double*) { return FieldType::kFloat; }
constexpr FieldType type_of(const std::string*) { return FieldType::kString; }
constexpr FieldType type_of(const Json*) { return FieldType::kObject; }
template <class T>
constexpr FieldType type_of(const std::vector<T>*) {
  return FieldType::kList;
}

constexpr std::optional<FieldType> element_of(const void*) { return std::nullopt; }
template <class T>
constexpr std::optional<FieldType> element_of(const std::vector<T>*) {
  return type_of(static_cast<const T*>(nullptr));
}
constexpr std::optional<FieldType> element_of(const std::vector<Json>*) { return std::nullopt; }

}  // namespace detail

}  // namespace outrider
