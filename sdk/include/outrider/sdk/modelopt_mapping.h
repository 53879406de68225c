#pragma once

#include <functional>
#include <string>

#include "outrider/json.h"

namespace outrider {

/// How ModelOpt records a mode of the same name (modelopt_state.pth), so that its folders are
/// restored here and folders written here are restored by it. `release` is "0.42" or "0.47".
struct ModelOptMapping {
  std::string class_prefix;  // of the converted model's class: "Eagle" in "EagleLlamaForCausalLM"
  std::string config_key;    // that ModelOpt's conversion adds to config.json; empty: none
  /// ModelOpt computes the same only from a conversion under reference numerics.
  bool needs_reference_numerics = false;
  /// A config that ModelOpt recorded in this mode's terms, and the other way round. Empty: equal.
  std::function<Json(Json config, const std::string&release)> read, write;
};

}  // namespace outrider
