#pragma once

#include <memory>
#include <string>
#include <vector>

#include "outrider/json.h"
#include "outrider/model/draft.h"

namespace outrider {

/// A change of the base that comes with a draft; the host applies it when it commits a conversion.
enum class BaseEdit {
  kFreezeParameters,   // requires_grad = false on every base parameter, no graph through the base
                       // pass
  kDropDecoderLayers,  // the base keeps embedding, final norm and head, and reads stored passes
};

/// What convert and restore return: the host commits all of it, or nothing.
struct Conversion {
  std::string attribute;  // the draft's name inside the model: "eagle_module", "medusa_heads"
  std::shared_ptr<Draft> draft;
  std::vector<BaseEdit> base_edits;
  Json config;    // every field resolved, sizes included: what a checkpoint records
  Json metadata;  // resolved choices that are no config: aux layer ids, reference numerics
  /// The base's own loss counts every label, whatever the masks say, as in ModelOpt.
  bool labels_stand_alone = false;
  std::vector<std::string> notes;  // for the user: settings that have no effect here
};

}  // namespace outrider
