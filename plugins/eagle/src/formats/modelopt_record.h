#pragma once

#include <string>

#include "outrider/json.h"

namespace outrider::eagle {

/// Whether a checkpoint's metadata come from ModelOpt, which records what was asked for, not what
/// that came to.
inline bool is_modelopt_record(const Json& metadata) { return !metadata.contains("aux_layer_ids"); }

/// Throws kInvalidConfig for keys in ModelOpt's `eagle_architecture_config` that nothing here
/// reads, all of them named, except those that change no number.
void refuse_unread_keys(const Json& architecture);

/// A config as ModelOpt 0.42 or 0.47 recorded it, with what the release lacks as it behaved.
Json config_of_modelopt(Json config, const std::string& release);

/// A config as that release records it: 0.42 knows fewer fields, and takes the sizes from the base.
Json config_for_modelopt(Json config, const std::string& release);

}  // namespace outrider::eagle
