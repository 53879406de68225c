#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "outrider/config/preset.h"
#include "outrider/config/schema.h"
#include "outrider/error.h"
#include "outrider/model/base_info.h"
#include "outrider/model/base_view.h"
#include "outrider/model/conversion.h"
#include "outrider/sdk/foreign_format.h"
#include "outrider/sdk/modelopt_mapping.h"

namespace outrider {

/// An algorithm, as the host sees it. Immutable and shared between threads; state lives in models.
/// Most authors write a SimpleMode instead (simple_mode.h).
class ModeDescriptor {
 public:
  virtual ~ModeDescriptor() = default;

  /// The name users give: "eagle".
  virtual std::string name() const = 0;
  virtual std::string description() const = 0;
  virtual const ConfigSchema& config_schema() const = 0;
  virtual std::vector<Preset> presets() const { return {}; }

  /// Builds a draft for a base. `config` is resolved by config_schema(). The conversion is only
  /// built here; the host commits it, so an exception leaves the model as it was.
  virtual Conversion convert(const BaseInfo& base, const Json& config) const = 0;

  /// Builds the same structure again from what a checkpoint recorded; tensors are loaded by the
  /// host.
  virtual Conversion restore(const BaseInfo& base, const Json& config,
                             const Json& metadata) const = 0;

  /// Brings the recorded config and metadata up to date before a save.
  virtual void update_for_save(const BaseView&, Json& /*config*/, Json& /*metadata*/) const {}

  /// A config of an older config_version in today's form. Default: refuses.
  virtual Json upgrade_config(
      Json, int from_version) const {  // NOLINT(performance-unnecessary-value-param)
    throw Error(ErrorCode::kIncompatibleCheckpoint,
                "mode '" + name() + "' cannot read configs of version " +
                    std::to_string(from_version) + "; it writes version " +
                    std::to_string(config_schema().version()));
  }

  /// Other projects' files that this mode's drafts can be written to and read from.
  virtual std::vector<ForeignFormat> formats() const { return {}; }

  /// Where ModelOpt has this mode too. Default: it has not.
  virtual std::optional<ModelOptMapping> modelopt_mapping() const { return std::nullopt; }
};

}  // namespace outrider
