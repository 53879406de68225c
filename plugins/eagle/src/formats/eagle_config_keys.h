#pragma once

#include "foreign_import.h"

namespace outrider::eagle {

/// In the dictionary "eagle_config" of ModelOpt's and SGLang's configs: the layers whose *output*
/// is read, from 0 on, as Outrider numbers them.
inline constexpr const char* kAuxLayerIds = "eagle_aux_hidden_state_layer_ids";

inline constexpr const char* kAuxLayerIdsPath = "eagle_config.eagle_aux_hidden_state_layer_ids";

/// The dictionary "eagle_config", empty where there is none; keys that nobody knows are problems.
Json eagle_config_of(const Json& config, ConfigProblems& problems);

}  // namespace outrider::eagle
