#pragma once

#include "outrider/config/rope_config.h"
#include "outrider/json.h"

namespace outrider::eagle {

/// A rotary embedding with every default spelled out: "rope_type", "rope_theta" and the parameters
/// that the type reads. Equal for configs that compute the same.
Json rope_meaning(const RopeConfig& rope);

/// Whether YaRN's attention temperature or its ramp is set away from the paper's, which serving
/// engines do not read.
bool has_unusual_yarn(const Json& meaning);

/// The keys of a Hugging Face config, in the spelling of transformers 4 and of 5.
Json rope_keys(const Json& meaning);

/// What a draft of this recorded config is served with: eagle_export_rope_scaling, where that
/// replaces the default type.
RopeConfig served_rope(const Json& eagle_config);
/// The same as the value of a config's "rope_scaling".
Json served_rope_scaling(const Json& eagle_config);

}  // namespace outrider::eagle
