#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/batch_order.h"
#include "data/batches.h"
#include "outrider/host/base_reference.h"
#include "outrider/host/trainer.h"
#include "outrider/host/training_data.h"
#include "trainer/best_checkpoint.h"
#include "trainer/finite_watch.h"
#include "trainer/interrupt.h"
#include "trainer/interval_metrics.h"
#include "trainer/metrics_log.h"
#include "trainer/optimizer.h"
#include "trainer/progress.h"
#include "trainer/run_folder.h"
#include "trainer/run_reporter.h"
#include "trainer/run_room.h"
#include "trainer/schedule.h"
#include "trainer/training_state.h"

namespace outrider {

/// One run, from its first step or a checkpoint to its end.
class Trainer {
 public:
  /// Opens and checks everything; writes nothing yet. `options` must outlive the trainer.
  Trainer(CausalLM& model, const TrainOptions& options, MetricsCallback on_metrics);

  Json run();

 private:
  using Clock = std::chrono::steady_clock;

  void start();
  void train_to_the_end();
  void continue_run();
  void load_checkpoint(const std::filesystem::path& checkpoint);
  void take_up_history();
  void look_for_room();
  void note_what_is_special();
  std::optional<Json> finished_before() const;
  bool finished() const;
  void take_step();
  at::Tensor learn_from(const std::vector<std::vector<int64_t>>& batches);
  ForwardOutput forward(const std::vector<int64_t>& conversations);
  void after_step(bool is_last);
  void pause(const std::function<void()>& work);
  void log_step();
  Json evaluate_held_out();
  void evaluate_and_log();
  void say_what_is_not_finite();
  void keep_if_best();
  void write_model(const std::filesystem::path& folder, bool replace) const;
  Json finish();
  Json summary() const;

  // Checkpoints, and what happens where the disk is full.
  void save_checkpoint(bool by_time = false);
  bool save_is_due_by_time();
  void save_draft_checkpoint();
  void save_what_fits();
  void try_to_write(const std::function<void()>& write);
  void write_at_the_end(const std::function<void()>& write);
  void say_waiting(const Error& failure);
  std::string what_is_kept() const;
  Error lacking_room(const Error& failure, uint64_t needed) const;
  RunSizes sizes() const;
  bool is_interrupted() const { return interrupt_ && interrupt_->requested(); }
  [[noreturn]] void stop_interrupted();

  void record(Json line);
  void note_start();
  void note_length_beyond_the_base();
  void write_report(const std::string& status);
  void report_failure(const std::string& reason) noexcept;
  void say(const std::string& text);
  TrainingState state(bool by_time) const;
  ProgressReport progress_report() const;
  double elapsed_seconds() const;
  double share_done() const;
  bool every(int64_t steps) const { return steps > 0 && step_ % steps == 0; }

  CausalLM& model_;
  const TrainOptions& options_;
  MetricsCallback on_metrics_;
  std::vector<AdamW::Parameter> parameters_;
  bool trains_base_;
  TrainingData data_;
  std::optional<TrainingData> eval_data_;
  Selection selection_;
  BatchOrder order_;
  BatchCursor cursor_;
  LrSchedule schedule_;
  AdamW optimizer_;
  IntervalMetrics interval_;
  FiniteWatch watch_;
  std::optional<ProgressLine> progress_;
  std::optional<RunFolder> folder_;
  std::optional<MetricsLog> log_;
  std::optional<RunReporter> reporter_;
  std::optional<BestCheckpoint> best_;  // with held-out data
  Json record_;                         // run.json
  std::optional<BaseReference> base_;   // where only drafts are saved
  std::optional<InterruptScope> interrupt_;
  RunSizes sizes_;

  int64_t step_ = 0, saved_step_ = -1;
  bool evaluation_pending_ = false, lacks_room_ = false, lacks_log_ = false;
  double learning_rate_ = 0, elapsed_before_ = 0, share_before_ = 0;
  at::Tensor gradient_norm_;
  Json metrics_, evaluation_;  // the latest
  Clock::time_point started_ = Clock::now(), saved_at_ = started_;
};

}  // namespace outrider
