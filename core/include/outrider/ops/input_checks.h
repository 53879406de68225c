#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "outrider/api.h"

namespace outrider {

/// An operator's input, for messages.
struct NamedInput {
  const char* name;
  at::Tensor value;
};

/// Unless `fits`, throws kInternal: what the operator takes, and the type, shape and device of what
/// it got.
OUTRIDER_API void require_inputs(bool fits, const std::string& name, const std::string& takes,
                                 const std::vector<NamedInput>& inputs);

/// Whether all are of the first one's type and on its device.
OUTRIDER_API bool are_alike(const std::vector<NamedInput>& inputs);

/// For operators on rows: `rows` [...,h] of one shape, `vectors` [h], all alike. Throws as above.
OUTRIDER_API void require_rows(const std::string& name, const std::vector<NamedInput>& rows,
                               const std::vector<NamedInput>& vectors = {});

}  // namespace outrider
