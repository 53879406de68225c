#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "outrider/json.h"
#include "verify/check.h"

namespace outrider::verify {

/// What a key of a config, or a tensor of this name, decides about a draft: "rope", "aux layers",
/// "norms", "vocabulary map", "max_position_embeddings", "masks", "embeddings", "head"; empty for
/// others.
std::string cause_of(std::string_view name);

/// A check for each key that two values have differently, by its path: "KEY is 4, was written with
/// 5". `then` says what the other value is: "was written with".
Checks differences(const std::string& check, const Json& value, const Json& other,
                   const std::string& then);

}  // namespace outrider::verify
