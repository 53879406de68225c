#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "outrider/json.h"
#include "pickle_values.h"

namespace outrider::pickle {

/// What a pickle says, as Heap::to_json() spells it. Texts of the tensors are views into the bytes.
struct Contents {
  Json value;
  std::vector<Tensor> tensors;
};

/// Reads a pickle of plain data and tensors, protocol 2, without running any of it. Throws
/// kUnsafeFile for every Python object and instruction that those do not need, naming it, and
/// kInvalidFile for a damaged, recursive or oversized one.
Contents read(std::span<const std::byte> bytes, const std::string& origin);

}  // namespace outrider::pickle
