#pragma once

#include <memory>

#include "outrider/sdk/mode_descriptor.h"

namespace outrider {

/// Where a plugin's entry function puts its modes. Registration is staged: the host publishes all of
/// a plugin's modes, or none.
class ModeRegistrar {
 public:
  virtual ~ModeRegistrar() = default;
  virtual void add(std::unique_ptr<const ModeDescriptor> mode) = 0;
};

}  // namespace outrider
