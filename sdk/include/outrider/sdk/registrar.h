#pragma once

#include <memory>
#include <string>

#include "outrider/model/base_model_registry.h"
#include "outrider/model/draft_model_registry.h"
#include "outrider/sdk/mode_descriptor.h"

namespace outrider {

/// Where a plugin's entry function puts what it provides. Registration is staged: the host
/// publishes all of it, or nothing.
class Registrar {
 public:
  virtual ~Registrar() = default;
  /// An algorithm.
  virtual void add(std::unique_ptr<const ModeDescriptor> mode) = 0;
  /// A base architecture, under its name in config.json.
  virtual void add_base(std::string architecture, BaseModelRegistry::Factory factory) = 0;
  /// The draft class of a mode, perhaps another plugin's, for bases of an architecture.
  virtual void add_draft_model(std::string mode, std::string architecture,
                               DraftModelRegistry::Factory factory) = 0;
};

}  // namespace outrider
