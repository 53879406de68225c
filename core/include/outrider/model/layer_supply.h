#pragma once

#include <cstdint>

#include "outrider/api.h"

namespace outrider {

/// Brings the values of a base's decoder layers where they compute, for a base whose layers are
/// kept elsewhere between their passes.
class OUTRIDER_API LayerSupply {
 public:
  virtual ~LayerSupply();

  /// The parameters of this layer hold their values until the next one is brought. A pass brings
  /// all layers in their order.
  virtual void bring(int64_t layer) = 0;
};

}  // namespace outrider
