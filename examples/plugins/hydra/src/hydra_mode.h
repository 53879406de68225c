#pragma once

#include <vector>

#include "hydra_draft.h"
#include "outrider/sdk/simple_mode.h"

namespace hydra {

class HydraMode : public outrider::SimpleMode<HydraDraft, HydraConfig> {
 public:
  HydraMode();

  std::vector<outrider::ForeignFormat> formats() const override;

 protected:
  std::vector<outrider::BaseEdit> base_edits(const HydraConfig& config) const override;
};

}  // namespace hydra
