#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>

#include "outrider/model/causal_lm.h"
#include "verify/check.h"

namespace outrider::verify {

struct ExportedFolder {
  std::filesystem::path path;
  std::string format;  // empty: the one that it looks like
};

/// An exported folder, read again from disk, against the model that it was made of: "export config"
/// and "export tensors" against what `outrider export` would write now, and "export decode", its
/// draft's Drafter against the model's training forward. Throws kUnknownFormat where no format
/// fits, kNotConverted where the model has no draft of its mode.
Checks check_export(const ExportedFolder& exported, CausalLM& model, const at::Tensor& ids);

}  // namespace outrider::verify
