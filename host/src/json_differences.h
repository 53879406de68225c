#pragma once

#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// Of two objects one text per key that differs: "seed is 1, was 42".
OUTRIDER_API std::vector<std::string> differences(const Json& now, const Json& before);

}  // namespace outrider
