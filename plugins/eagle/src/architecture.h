#pragma once

#include <string>
#include <vector>

#include "eagle_schema.h"
#include "outrider/model/base_info.h"

namespace outrider::eagle {

/// The draft decoder's dictionary with every choice made: the user's values over the defaults, sizes
/// from the base. Throws kInvalidConfig; keys that nothing reads are named in `notes`.
Json resolve_architecture(const BaseInfo& base, const EagleConfig& config,
                          std::vector<std::string>& notes);

/// The typed view of a resolved dictionary. Throws kInvalidConfig.
Architecture typed_architecture(const Json& architecture);

/// The layers that EAGLE-3 reads: those of the config, or 1, L/2-1 and L-4; ascending, each once.
/// Throws kInvalidConfig for a layer that the base has not.
std::vector<int64_t> aux_layer_ids(const Architecture& architecture, int64_t num_layers);

}  // namespace outrider::eagle
