#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/model/base_outputs.h"

namespace outrider {

/// One pass of a base. Tensors [B,S]; optional ones may be undefined.
struct BasePass {
  at::Tensor input_ids;     // int64
  at::Tensor position_ids;  // undefined: 0 … S-1
  at::Tensor key_mask;      // bool, false = must not be attended to; undefined: all may be
  HiddenStateRequest request;
};

}  // namespace outrider
