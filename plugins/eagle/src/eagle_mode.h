#pragma once

#include "outrider/sdk/mode_descriptor.h"

namespace outrider::eagle {

class EagleMode : public ModeDescriptor {
 public:
  std::string name() const override { return "eagle"; }
  std::string description() const override {
    return "EAGLE: a decoder layer that drafts from the base's hidden states";
  }
  const ConfigSchema& config_schema() const override;
  std::vector<Preset> presets() const override;
  Conversion convert(const BaseInfo& base, const Json& config) const override;
  Conversion restore(const BaseInfo& base, const Json& config, const Json& metadata) const override;
  std::vector<ForeignFormat> formats() const override;
  std::optional<ModelOptMapping> modelopt_mapping() const override;
};

}  // namespace outrider::eagle
