#pragma once

#include <cstdint>
#include <string>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// Rotary embedding parameters, from either spelling of Hugging Face's: `rope_theta` with
/// `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
struct OUTRIDER_API RopeConfig {
  std::string type = "default";  // default | linear | dynamic | llama3 | yarn | longrope
  double theta = 10000.0;
  Json parameters = Json::object();  // the type's own: factor, low_freq_factor, beta_fast, …
  int64_t max_position_embeddings = 2048;
  double partial_rotary_factor = 1.0;  // the part of a head that is rotated, from its start

  /// Reads the keys of a model's config. Throws kUnsupported for an unknown type, kInvalidConfig
  /// for a missing or mistyped parameter of a known one or one that no type has; `origin` names the
  /// source in messages. A partial rotation is a problem too unless the caller computes it.
  static RopeConfig from_json(const Json& config, const std::string& origin,
                              bool allow_partial_rotation = false);
};

}  // namespace outrider
