#pragma once

#include "draft/medusa_draft.h"
#include "outrider/sdk/simple_mode.h"

namespace outrider::medusa {

class MedusaMode : public SimpleMode<MedusaDraft, MedusaConfig> {
 public:
  MedusaMode();

  Conversion convert(const BaseInfo& base, const Json& config) const override;
  Conversion restore(const BaseInfo& base, const Json& config, const Json& metadata) const override;
  std::vector<ForeignFormat> formats() const override;
  std::optional<ModelOptMapping> modelopt_mapping() const override;

 protected:
  std::vector<BaseEdit> base_edits(const MedusaConfig& config) const override;
};

}  // namespace outrider::medusa
