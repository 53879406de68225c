#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "outrider/config/struct_schema.h"
#include "outrider/sdk/mode_descriptor.h"

namespace outrider {

/// A mode from a config struct and a draft: derives conversion and restoration.
///
/// `DraftType` is a Draft with a constructor (const BaseInfo&, const Config&) that fills its
/// parameters; `static Config resolve(const BaseInfo&, Config)` may be given to turn choices that
/// depend on the base (sizes, layers) into values, which is what a checkpoint then records.
template <class DraftType, class Config>
class SimpleMode : public ModeDescriptor {
 public:
  SimpleMode(std::string name, std::string description, std::string attribute,
             const StructSchema<Config>& schema, std::vector<Preset> presets = {})
      : name_(std::move(name)),
        description_(std::move(description)),
        attribute_(std::move(attribute)),
        schema_(schema),
        presets_(std::move(presets)) {}

  std::string name() const override { return name_; }
  std::string description() const override { return description_; }
  const ConfigSchema& config_schema() const override { return schema_; }
  std::vector<Preset> presets() const override { return presets_; }

  Conversion convert(const BaseInfo& base, const Json& config) const override {
    return build(base, schema_.parse(config), Json::object());
  }
  Conversion restore(const BaseInfo& base, const Json& config,
                     const Json& metadata) const override {
    return build(base, schema_.parse(config), metadata);
  }

 protected:
  /// What comes with the draft; by default a frozen base.
  virtual std::vector<BaseEdit> base_edits(const Config&) const {
    return {BaseEdit::kFreezeParameters};
  }

 private:
  Conversion build(const BaseInfo& base, Config config, Json metadata) const {
    if constexpr (requires { DraftType::resolve(base, config); }) {
      config = DraftType::resolve(base, std::move(config));
    }
    auto draft = std::make_shared<DraftType>(base, config);
    return {attribute_, std::move(draft), base_edits(config), schema_.dump(config),
            std::move(metadata)};
  }

  std::string name_, description_, attribute_;
  const StructSchema<Config>& schema_;
  std::vector<Preset> presets_;
};

}  // namespace outrider
