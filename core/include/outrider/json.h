#pragma once

#include <nlohmann/json.hpp>

namespace outrider {

/// Integers and floats stay distinct (`32` is not `32.0`); objects are sorted by key.
using Json = nlohmann::json;

}  // namespace outrider
