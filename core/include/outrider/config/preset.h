#pragma once

#include <string>

#include "outrider/json.h"

namespace outrider {

/// Named values of a mode's config. Precedence: --set > --config > preset > default; nested objects
/// are replaced whole, as the reference does.
struct Preset {
  std::string name, description;
  Json overrides;
};

}  // namespace outrider
