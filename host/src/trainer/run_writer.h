#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "data/batches.h"
#include "outrider/host/base_reference.h"
#include "outrider/host/held_out.h"
#include "outrider/host/trainer.h"
#include "outrider/host/training_data.h"
#include "trainer/best_checkpoint.h"
#include "trainer/metrics_log.h"
#include "trainer/run_folder.h"
#include "trainer/run_reporter.h"
#include "trainer/run_room.h"
#include "trainer/training_state.h"

namespace outrider {

/// What a run keeps of its work: folder, record, metrics, report, checkpoints; and what it does
/// where the disk is full.
class RunWriter {
 public:
  /// What it asks of the run.
  struct Run {
    std::function<int64_t()> step;
    std::function<double()> epochs, elapsed_seconds;
    std::function<TrainingState()> state;  // what a checkpoint holds beside the model
    std::function<void()> check;           // throws where the model to be saved is not finite
    /// Completes a folder of the model that is being saved.
    std::function<void(const std::filesystem::path& folder)> complete;
    std::function<bool()> is_interrupted;
    std::function<void(const std::string&)> say;
  };

  /// Takes the folder; writes nothing yet. `model` and `options` must outlive it. Throws as
  /// RunFolder, and kInvalidArgument for drafts alone of a run that trains the base.
  RunWriter(const CausalLM& model, const TrainOptions& options, bool trains_base, Run run);

  /// The record of the run that the folder holds, nothing for a new one. Throws kInvalidFile.
  std::optional<Json> record_before() const { return folder_.record(); }
  Json& record() { return record_; }
  /// The summary of a run that came to its end.
  std::optional<Json> finished_before() const;
  /// The run goes on from the checkpoint of its present step.
  void resumed() { saved_step_ = run_.step(); }

  /// Looks for room and opens what is written as the run goes on. `optimizer_bytes`: of its state.
  void begin(int64_t total_steps, uint64_t optimizer_bytes, const TrainingData& data,
             const Selection& selection);
  const report::RunHistory& history() const { return reporter_->history(); }

  /// A line of the metrics, with the step and the time.
  void append(Json line, const MetricsCallback& on_metrics);
  /// Whether --save-steps or --save-minutes asks for a checkpoint.
  bool is_save_due() const { return is_due_by_steps() || is_due_by_time(); }
  /// A checkpoint where --save-steps or --save-minutes asks for one.
  void save_if_due();
  /// Keeps a model that is better than all before on held-out data. Where there is no room the run
  /// goes on, or at its end waits.
  void keep_if_best(const Evaluation& evaluation, bool is_at_the_end);
  void write_final();
  /// `summary` gets what was best.
  Json finish(Json summary);
  /// Leaves a checkpoint of this step. Throws kInterrupted, or kWriteFailed where nothing fits.
  [[noreturn]] void stop_interrupted();
  void report_failure(const std::string& reason) noexcept;

 private:
  using Clock = std::chrono::steady_clock;

  void look_for_room(int64_t total_steps);
  void note_start();
  void write_model(const std::filesystem::path& folder, bool replace) const;
  void save_checkpoint(bool by_time = false);
  bool is_due_by_steps() const;
  bool is_due_by_time() const;
  bool has_room_to_save();
  void save_draft_checkpoint();
  void save_what_fits();
  void try_to_write(const std::function<void()>& write);
  void write_at_the_end(const std::function<void()>& write);
  void say_waiting(const Error& failure);
  std::string what_is_kept() const;
  Error lacking_room(const Error& failure, uint64_t needed) const;
  RunSizes sizes(uint64_t optimizer_bytes) const;
  void write_report(const std::string& status);
  Json best_summary() const { return best_ ? best_->summary() : Json(); }

  const CausalLM& model_;
  const TrainOptions& options_;
  bool trains_base_;
  Run run_;
  std::optional<BaseReference> base_;  // where only drafts are saved
  RunFolder folder_;
  Json record_;  // run.json
  std::optional<MetricsLog> log_;
  std::optional<RunReporter> reporter_;
  std::optional<BestCheckpoint> best_;  // with held-out data
  RunSizes sizes_;
  int64_t saved_step_ = -1;
  bool lacks_room_ = false, lacks_log_ = false;
  Clock::time_point saved_at_ = Clock::now();
};

}  // namespace outrider
