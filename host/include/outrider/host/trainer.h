#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/config/struct_schema.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

class ProcessGroup;

/// Conversations in stretches of token ids that follow each other, and the text of each stretch.
/// Nothing where there is no tokenizer at hand.
using TokenText = std::function<std::optional<std::vector<std::vector<std::string>>>(
    const std::vector<std::vector<std::vector<int32_t>>>& conversations)>;

/// Settings of a run, under the names of the Hugging Face Trainer where it has them. What each
/// means and accepts is declared in training_schema().
struct TrainingSettings {
  int64_t max_steps = 0;
  double num_train_epochs = 1.0, max_seconds = 0;
  int64_t per_device_train_batch_size = 4, gradient_accumulation_steps = 1, sequence_parallel = 1,
          max_length = 2048;
  double learning_rate = 1e-4;
  std::string lr_scheduler_type = "linear";
  double warmup_ratio = 0.0;
  int64_t warmup_steps = 0, fit_tokens = 0;
  double weight_decay = 0.0, adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8,
         max_grad_norm = 1.0;
  bool packing = false;
  int64_t logging_steps = 10, save_steps = 0;
  double save_minutes = 10;
  int64_t save_total_limit = 2;
  std::string save = "full", base_precision = "full", recompute = "auto", cuda_graphs = "auto";
  double wait_for_room = 60;
  int64_t eval_steps = 0, eval_num_prompts = 0, eval_new_tokens = 64, eval_draft_tokens = 3;
};

/// Descriptions, defaults, ranges and choices of the settings: the command line, run.json and the
/// checks come from it.
OUTRIDER_API const StructSchema<TrainingSettings>& training_schema();

struct TrainOptions : TrainingSettings {
  std::filesystem::path data, eval_data, output;  // eval_data may be empty
  std::filesystem::path eval_prompts;             // decoded with the drafts; may be empty
  std::filesystem::path source;                   // the converted folder that is trained
  std::filesystem::path base;                     // of a `source` that holds drafts only
  uint64_t seed = 42;
  bool resume = false;
  std::filesystem::path resume_from;  // with `resume`: a checkpoint of the run; empty: the newest
  std::filesystem::path loaded_from;  // with `resume`: the whole one that the model came from
  bool progress = true;               // shown on stderr
  std::string command_line;           // noted in the run's record
  TokenText token_text;               // for the report; empty: it shows token ids
  std::shared_ptr<ProcessGroup> processes;  // that train together; empty: this one alone
  int64_t trace_steps = 0;                  // written to trace.json in `output`, by time
  bool shard_base = false;  // the processes hold the base together, as LoadOptions::layers has it
};

/// What `metrics.jsonl` gets per logged step and callers may watch.
using MetricsCallback = std::function<void(const Json&)>;

/// Trains the attached drafts on token shards. Writes into `output`: run.json (what the run is),
/// metrics.jsonl, periodic checkpoint-N (a restorable folder with training state), best (the folder
/// with the lowest held-out loss, where there is eval_data), and final.
/// With `resume` the run in `output` goes on from its newest checkpoint (or `resume_from`), whose
/// tensors replace the model's unless it was loaded from there, or from its beginning where it has
/// none; on the CPU the result has
/// the bits of a run that never stopped. A finished run is left as it is. Returns the summary, also
/// found in run.json. Throws kInvalidArgument (options, also where they differ from the resumed
/// run's; a folder that is no run's), kInvalidData, kNotConverted, kNonFinite (naming step and
/// batch, and the base where its outputs are not finite), kFileExists, kFileNotFound, kInvalidFile
/// (a damaged checkpoint, with an older one that is whole), kWriteFailed (before the first step
/// where the disk has no room for the run), kInterrupted (after leaving a resumable checkpoint).
OUTRIDER_API Json train(CausalLM& model, const TrainOptions& options,
                        const MetricsCallback& on_metrics = {});

}  // namespace outrider
