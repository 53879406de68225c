#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/batch_order.h"
#include "outrider/api.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/json.h"

namespace outrider {

/// Everything besides the model that a run continues from: `training_state.json` and
/// `training_state.safetensors` in a checkpoint folder.
struct OUTRIDER_API TrainingState {
  int64_t step = 0;
  DataPosition position;
  double elapsed_seconds = 0;
  Json options = Json::object();      // must be the same on resuming
  Json environment = Json::object();  // decides whether results are bit-identical
  TensorMap tensors;                  // optimizer, random generators, running metrics
  bool evaluation_pending = false;    // the evaluation that is due at this step was interrupted
  bool by_time = false;               // saved because of --save-minutes alone

  /// Last of a checkpoint's files: it records the hashes of the others.
  void write(const std::filesystem::path& folder) const;
  /// Throws kFileNotFound, kInvalidFile (naming the key), kIncompatibleCheckpoint for a newer
  /// format.
  static TrainingState read(const std::filesystem::path& folder);
};

/// `run`/checkpoint-STEP.
OUTRIDER_API std::filesystem::path checkpoint_path(const std::filesystem::path& run, int64_t step);

/// All folders of a run that are named as checkpoints, oldest first, whatever is in them.
OUTRIDER_API std::vector<std::filesystem::path> checkpoint_folders(
    const std::filesystem::path& run);

/// The N of a folder named checkpoint-N.
OUTRIDER_API std::optional<int64_t> step_in_name(const std::filesystem::path& checkpoint);

/// What is wrong with a checkpoint, a sentence for each file that is missing, or not as it was
/// written. Reads every byte that a run resumes from.
OUTRIDER_API std::vector<std::string> damages(const std::filesystem::path& checkpoint);

/// The complete checkpoints of a run, oldest first.
OUTRIDER_API std::vector<std::filesystem::path> checkpoints(const std::filesystem::path& run);

/// Deletes all but the newest `keep` checkpoints; with 0 only all but the newest two of those that
/// were saved because of --save-minutes alone.
OUTRIDER_API void remove_old_checkpoints(const std::filesystem::path& run, int64_t keep);

}  // namespace outrider
