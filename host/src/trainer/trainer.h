#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/batch_order.h"
#include "data/batches.h"
#include "distributed/bucketed_sum.h"
#include "distributed/process_group.h"
#include "outrider/host/held_out.h"
#include "outrider/host/trainer.h"
#include "outrider/host/training_data.h"
#include "trainer/base_precision.h"
#include "trainer/batch_source.h"
#include "trainer/eval_prompts.h"
#include "trainer/finite_watch.h"
#include "trainer/interrupt.h"
#include "trainer/interval_metrics.h"
#include "trainer/progress.h"
#include "trainer/recorded_passes.h"
#include "trainer/run_writer.h"
#include "trainer/schedule.h"
#include "trainer/step_trace.h"
#include "trainer/training_state.h"
#include "trainer/training_step.h"

namespace outrider {

/// One run, from its first step or a checkpoint to its end.
class Trainer {
 public:
  /// Opens and checks everything; writes nothing yet. `options` must outlive the trainer.
  Trainer(CausalLM& model, const TrainOptions& options, MetricsCallback on_metrics);

  Json run();

 private:
  using Clock = std::chrono::steady_clock;

  RunWriter::Run view();
  void complete(const std::filesystem::path& folder);
  void start();
  std::string first_says(const std::function<std::string()>& say) const;
  void first_alone(const std::function<void()>& work) const;
  double clock_of_first() const;
  bool is_first() const { return !options_.processes || options_.processes->is_first(); }
  void seed_draws(uint64_t seed) const;
  void open_writer();
  void begin_writing();
  void continue_run();
  void take_up_record();
  std::filesystem::path checkpoint_to_continue();
  void load_checkpoint(const std::filesystem::path& checkpoint);
  void take_up_history();
  void fit_drafts_first();
  void note_what_is_special();
  std::string packing_note() const;
  void note_length_beyond_the_base();
  void train_to_the_end();
  bool is_finished(double seconds) const;
  std::unique_ptr<SideStream> stream_for_recording();
  ForwardOutput learn(ForwardInput input, double share, size_t batches_left);
  void take_step();
  bool anywhere(bool is_so) const;
  void after_step(bool is_last);
  void wait_for_all() const;
  void pause(const std::function<void()>& work);
  void log_step();
  bool evaluates() const { return eval_data_ || eval_prompts_; }
  EvaluationProgress shown_progress(const std::string& work, const std::string& unit);
  void evaluate();
  void evaluate_and_log();
  void log_evaluation();
  void log_decoding();
  void say_what_is_not_finite();
  Json finish();
  Json summary() const;
  TrainingState state() const;
  ProgressReport progress_report() const;
  double elapsed_seconds() const;
  double share_done() const;
  void say(const std::string& text);
  bool is_interrupted() const { return interrupt_ && interrupt_->requested(); }
  bool every(int64_t steps) const { return steps > 0 && step_ % steps == 0; }

  CausalLM& model_;
  const TrainOptions& options_;
  MetricsCallback on_metrics_;
  std::optional<BucketedSum> gradient_sum_;  // where several processes train together
  TrainingStep training_;
  std::optional<RecordedPasses> recorded_;
  TrainingData data_;
  std::optional<TrainingData> eval_data_;
  std::optional<EvalPrompts> eval_prompts_;
  Selection selection_;
  PackedRows rows_;
  BatchOrder order_;
  BatchCursor cursor_;
  LrSchedule schedule_;
  IntervalMetrics interval_;
  FiniteWatch watch_;
  StepTrace trace_;
  std::optional<ProgressLine> progress_;
  std::optional<WorkProgress> work_;  // of an evaluation
  std::optional<InterruptScope> interrupt_;
  std::unique_ptr<BatchSource> batches_, eval_batches_;
  std::optional<RunWriter> writer_;      // in the first of them
  std::optional<Json> finished_before_;  // the summary of a run that came to its end

  std::optional<TeacherCost> teacher_cost_;  // of a base of lower precision
  Json base_hashes_ = Json::object();        // of a frozen base's tensors, once they were saved
  int64_t step_ = 0;
  bool evaluation_pending_ = false;
  double learning_rate_ = 0, elapsed_before_ = 0, share_before_ = 0;
  at::Tensor gradient_norm_;
  Json metrics_;                           // the latest
  std::optional<Evaluation> evaluation_;   // the latest
  std::optional<DecodedPrompts> decoded_;  // the latest
  Clock::time_point started_ = Clock::now();
};

}  // namespace outrider
