#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/model/draft.h"

namespace outrider::verify {

/// The base's ids of a draft's vocabulary [V'] int64, by its buffer "d2t" (id minus place), as
/// formats and `--draft-vocab` have it; undefined where it has none.
at::Tensor draft_vocabulary_of(const Draft& draft);

}  // namespace outrider::verify
