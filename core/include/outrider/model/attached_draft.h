#pragma once

#include <memory>
#include <string>
#include <vector>

#include "outrider/checkpoint/metadata.h"
#include "outrider/model/conversion.h"

namespace outrider {

/// One attached algorithm.
struct AttachedDraft {
  ModeState state;
  std::string attribute;
  std::shared_ptr<Draft> draft;
  std::vector<BaseEdit> base_edits;
  bool labels_stand_alone = false;
};

}  // namespace outrider
