#pragma once

#include "outrider/api.h"
#include "outrider/host/trainer.h"

namespace outrider {

/// Throws kInvalidArgument that names every option with an impossible value.
OUTRIDER_API void check_options(const TrainOptions& options);

/// Into how many parts, each of per_device_train_batch_size conversations, a batch is divided:
/// processes that share sequences have one part together.
OUTRIDER_API int64_t batch_parts(const TrainOptions& options);

/// Optimizer steps of a run over `batches_per_epoch` batches; 0 when only time ends it.
OUTRIDER_API int64_t planned_steps(const TrainOptions& options, int64_t batches_per_epoch);

/// The options that decide what a run computes, besides its data, model and length.
Json reproducible_options(const TrainOptions& options);
/// Every option with its value, for people.
Json option_values(const TrainOptions& options);

}  // namespace outrider
