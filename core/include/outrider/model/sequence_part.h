#pragma once

#include <cstdint>
#include <memory>

#include "outrider/ops/sequence_share.h"

namespace outrider {

/// What a process has of sequences that several share. Tensors of such a batch hold the process's
/// own rows, and after them those of its successor that drafts look ahead at (of the last process:
/// padding). What is computed for a row counts in the process that owns it, and there alone.
struct SequencePart {
  std::shared_ptr<SequenceShare> share;
  int64_t rows;    // L, of one's own: the positions share->index() · L …
  int64_t length;  // S, of the whole sequences
};

/// What a draft needs to train on parts of sequences.
struct SequenceNeeds {
  int64_t positions_ahead;      // how many positions after a row its losses and layers look at
  int64_t attention_heads = 0;  // of its own attention, which the processes divide; 0: it has none
};

}  // namespace outrider
