#pragma once

#include <cstdint>

#include "outrider/api.h"
#include "outrider/host/trainer.h"

namespace outrider {

/// Bytes of what a run writes.
struct RunSizes {
  uint64_t model = 0;      // a model folder, as --save has it
  uint64_t draft = 0;      // one with the drafts alone; 0 where that is not possible
  uint64_t optimizer = 0;  // what a checkpoint holds beside

  uint64_t checkpoint() const { return model + optimizer; }
};

/// Throws kWriteFailed, with all sizes and what would need less, where the disk has no room for the
/// rest of a run of `total_steps` (0: unknown) that is at `step`: the final model, the best one,
/// and the checkpoints that --save-steps asks for. Those of --save-minutes are made as room allows.
OUTRIDER_API void require_room(const TrainOptions& options, const RunSizes& sizes,
                               int64_t total_steps, int64_t step);

/// Whether a checkpoint fits beside the final model and the best one.
OUTRIDER_API bool has_room_for_checkpoint(const TrainOptions& options, const RunSizes& sizes);

}  // namespace outrider
