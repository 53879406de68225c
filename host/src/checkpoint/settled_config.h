#pragma once

#include <functional>
#include <map>
#include <string>

#include "outrider/api.h"
#include "outrider/checkpoint/safetensors.h"
#include "outrider/model/model_config.h"

namespace outrider {

using StoredEntries = std::map<std::string, SafetensorsFolder::Entry>;

/// A base's config as its tensors have it, decided as transformers does: a type that config.json
/// does not name, and a head that is said to be tied, but has values of its own. `on_note` (may be
/// empty) is told what was decided.
OUTRIDER_API ModelConfig settled_config(ModelConfig config, const StoredEntries& stored,
                                        const std::function<void(const std::string&)>& on_note);

/// The tensors of a base with a tied head under the name of the embedding, where the file has them
/// under the head's alone.
StoredEntries with_tied_embedding(StoredEntries stored, const ModelConfig& config);

}  // namespace outrider
