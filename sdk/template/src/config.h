#pragma once

#include <cstdint>

#include "outrider/config/struct_schema.h"

namespace @name@_plugin {

/// What users can set. A member's initialiser is the field's default; integers are int64_t, other
/// numbers double.
struct Config {
  int64_t num_heads = 2;
  double decay = 0.8;
};

inline const outrider::StructSchema<Config>& schema() {
  // Never destroyed: plugins are used until the process ends.
  static const auto& schema = *new outrider::StructSchema<Config>(
      outrider::StructSchema<Config>("@Name@Config")
          .field("num_heads", &Config::num_heads, "Heads: tokens that are drafted at once.",
                 {.minimum = 1, .maximum = 16})
          .field("decay", &Config::decay, "Weight of a head's loss against the head before it.",
                 {.minimum = 0, .maximum = 1}));
  return schema;
}

}  // namespace @name@_plugin
