#pragma once

#include "outrider/json.h"

namespace outrider::eagle {

/// Whether a checkpoint's metadata come from ModelOpt, which records what was asked for, not what
/// that came to.
inline bool is_modelopt_record(const Json& metadata) { return !metadata.contains("aux_layer_ids"); }

/// Throws kInvalidConfig for keys in ModelOpt's `eagle_architecture_config` that nothing here
/// reads, all of them named, except those that change no number.
void refuse_unread_keys(const Json& architecture);

}  // namespace outrider::eagle
