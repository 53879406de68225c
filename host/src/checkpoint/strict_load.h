#pragma once

#include <functional>
#include <string>

#include "checkpoint/stored_model.h"
#include "checkpoint/tensor_mismatches.h"
#include "outrider/checkpoint/tensor_io.h"

namespace outrider {

using TensorName = std::function<std::string(const std::string&)>;

/// Copies stored values into `targets` by name; what is missing, unexpected or does not fit becomes
/// a mismatch, under the name that `shown` gives it. Stored tensors that `may_be_ignored` names are
/// no mismatch.
void load_strictly(const TensorMap& targets, const StoredTensors& stored,
                   const std::function<bool(const std::string&)>& may_be_ignored,
                   const TensorName& shown, TensorMismatches& mismatches);

}  // namespace outrider
