#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "outrider/checkpoint/tensor_io.h"

namespace outrider::eagle {

/// The sizes of base and draft vocabulary; equal where the draft proposes every token.
struct VocabularySizes {
  int64_t base, draft;

  bool reduced() const { return base != draft; }
};

/// Adds "t2d" [V] bool, which base tokens the draft can propose, and "d2t" [Vd] int64 where the
/// draft has none because it proposes all of them. Throws kInvalidData for a d2t whose
/// tokens do not increase within the vocabulary, as readers of t2d expect.
void add_vocabulary_maps(TensorMap& tensors, const VocabularySizes& sizes);

/// Which maps a format's files have.
enum class MapsInFiles {
  kOptionalT2d,  // d2t with a reduced vocabulary; t2d may be there
  kWhenReduced,  // both, with a reduced vocabulary
  kAlways,       // both
};

/// Takes out of `tensors` the maps that Outrider's draft does not hold, after checking them against
/// each other; what is wrong goes into `problems`, a line each.
void take_vocabulary_maps(TensorMap& tensors, const VocabularySizes& sizes, MapsInFiles expected,
                          std::vector<std::string>& problems);

}  // namespace outrider::eagle
