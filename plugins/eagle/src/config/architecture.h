#pragma once

#include <string>
#include <vector>

#include "eagle_schema.h"
#include "numerics.h"
#include "outrider/model/base_info.h"

namespace outrider::eagle {

/// The draft decoder's dictionary with every choice made: the user's values over the defaults,
/// sizes from the base. Throws kInvalidConfig; keys that nothing reads are named in `notes`. With
/// eagle_reuse_base_decoder, values that equal ModelOpt's defaults count as not chosen, because its
/// presets write all of them out.
Json resolve_architecture(const BaseInfo& base, const EagleConfig& config, const Numerics& numerics,
                          std::vector<std::string>& notes);

/// The keys that a draft takes from a config when it is sized like that config's layers.
Json sizes_of(const ModelConfig& layers);

/// Throws kInvalidConfig where the export would replace a rope scaling that was trained with.
void check_export_rope(const Json& architecture, const Json& export_rope_scaling);

/// The typed view of a resolved dictionary. Throws kInvalidConfig.
Architecture typed_architecture(const Json& architecture);

/// The type of a dictionary's rope_scaling, "default" where it names none.
std::string rope_type(const Json& architecture);
RopeConfig rope_config(const Architecture& architecture);

/// The layers that EAGLE-3 reads: those of the config, or 1, L/2-1 and L-4; ascending, each once.
/// None without use_aux_hidden_state. Throws kInvalidConfig for a layer that the base has not.
std::vector<int64_t> aux_layer_ids(const Architecture& architecture, int64_t num_layers);

}  // namespace outrider::eagle
