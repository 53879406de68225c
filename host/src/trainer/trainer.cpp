#include "trainer/trainer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <numeric>
#include <utility>

#include "json_differences.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/held_out.h"
#include "outrider/text.h"
#include "trainer/draft_fit.h"
#include "trainer/held_out_pass.h"
#include "trainer/random_state.h"
#include "trainer/resume_point.h"
#include "trainer/run_record.h"
#include "trainer/run_setup.h"
#include "trainer/same_start.h"
#include "trainer/shared_batch.h"
#include "trainer/shared_sequences.h"
#include "trainer/step_setup.h"
#include "trainer/train_options.h"
#include "verify/probe.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

TokenShards::Part part_of(const TrainOptions& options) {
  if (!options.processes) return {};
  return {options.processes->rank(), options.processes->size()};
}

std::optional<TrainingData> open_if_given(const fs::path& folder, const CausalLM& model,
                                          TokenShards::Part part) {
  if (folder.empty()) return std::nullopt;
  return TrainingData(folder, model, part);
}

std::optional<BucketedSum> sum_over(const TrainOptions& options, at::Device device) {
  if (!options.processes) return std::nullopt;
  return BucketedSum(options.processes->tensors_on(device));
}

GradientReduction reduction_by(std::optional<BucketedSum>& sum) {
  if (!sum) return {};
  return {[&](size_t index, const at::Tensor& gradient) { sum->ready(index, gradient); },
          [&](const std::vector<at::Tensor>& gradients) { sum->finish(gradients); }};
}

std::unique_ptr<BatchSource> batches_of(const TrainingData& data, const CausalLM& model,
                                        const TrainOptions& options,
                                        const std::shared_ptr<SequenceShare>& sequences) {
  if (!options.processes) return std::make_unique<WholeBatches>(data, options.max_length);
  return std::make_unique<SharedBatches>(*options.processes, data, model, options.max_length,
                                         sequences);
}

bool is_number(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_number();
}

std::vector<int64_t> conversations_in(const std::vector<Batch>& batches) {
  std::vector<int64_t> all;
  for (const auto& batch : batches) {
    for (const auto& row : batch) all.insert(all.end(), row.begin(), row.end());
  }
  return all;
}

PackedRows rows_of(const Selection& selection, const TrainOptions& options) {
  if (!options.packing) return unpacked(selection.conversations, selection.lengths);
  return packed(selection.conversations, selection.lengths, options.max_length);
}

}  // namespace

Trainer::Trainer(CausalLM& model, const TrainOptions& options, MetricsCallback on_metrics)
    : model_(model),
      options_(options),
      on_metrics_(std::move(on_metrics)),
      gradient_sum_(sum_over(options, model.device())),
      training_(model, optimizer_options(options), reduction_by(gradient_sum_),
                recompute_of(options, model)),
      data_(options.data, model, part_of(options)),
      eval_data_(open_if_given(options.eval_data, model, part_of(options))),
      selection_(select_conversations(data_.tokens(), model, options.max_length)),
      rows_(rows_of(selection_, options)),
      order_(rows_, options.per_device_train_batch_size * batch_parts(options), options.seed),
      cursor_(order_, {}),
      schedule_{options.lr_scheduler_type, options.warmup_steps,
                planned_steps(options, order_.batches_per_epoch()), options.warmup_ratio,
                options.max_seconds},
      interval_(mode_names(model)),
      watch_(options.data,
             [this](const auto& conversations) -> std::optional<Error> {
               // Of a base that is trained, the step itself has spoiled what could be looked at; a
               // shared one runs in all processes together only.
               if (training_.trains_base() || options_.shard_base) return std::nullopt;
               return data_.base_fault(model_, conversations, options_.max_length);
             }),
      trace_(is_first() ? options.trace_steps : 0, options.output / "trace.json") {
  if (options.shard_base && training_.trains_base()) {
    throw Error(ErrorCode::kUnsupported, "a base that is trained cannot be shared by --shard-base",
                "convert with a frozen base, or train without --shard-base");
  }
  if (eval_data_) select_conversations(eval_data_->tokens(), model, options.max_length);
  if (options.processes) require_same_start(*options.processes, options, model, data_);
  const auto sequences =
      meet_sequence_share(options, model, data_, eval_data_ ? &*eval_data_ : nullptr);
  batches_ = batches_of(data_, model, options, sequences);
  if (eval_data_) eval_batches_ = batches_of(*eval_data_, model, options, sequences);
  if (!options.eval_prompts.empty()) eval_prompts_.emplace(options, model);
  if (options.packing && data_.has_hidden_states()) {
    throw Error(ErrorCode::kUnsupported, "--packing and stored hidden states do not go together",
                "train without --packing, or on token shards without hidden states");
  }
  if (options.fit_tokens > 0 && data_.has_hidden_states()) {
    throw Error(ErrorCode::kUnsupported,
                "--fit-tokens runs the base, which stored hidden states replace",
                "train without --fit-tokens, or on token shards without hidden states");
  }
  if (options.base_precision == "fp8") {
    teacher_cost_ =
        lower_base_precision(model, eval_data_ ? *eval_data_ : data_, options.max_length);
  }
  if (options.progress && is_first()) progress_.emplace(std::cerr, terminal_width(STDERR_FILENO));
}

Json Trainer::run() {
  interrupt_.emplace();
  const DraftTrainingScope training_mode(model_);
  const auto stream = stream_for_recording();
  start();
  if (finished_before_) return *std::move(finished_before_);
  try {
    train_to_the_end();
    return finish();
  } catch (const Error& e) {
    if (writer_) writer_->report_failure(e.what());
    throw;
  }
}

/// What the first process says, once it has; of one process alone what that says.
std::string Trainer::first_says(const std::function<std::string()>& say) const {
  return options_.processes ? options_.processes->from_first(say) : say();
}

/// What only one process may do, while the others wait.
void Trainer::first_alone(const std::function<void()>& work) const {
  first_says([&] {
    work();
    return std::string();
  });
}

/// All processes go by one clock.
double Trainer::clock_of_first() const {
  const bool is_asked = options_.processes && options_.max_seconds > 0;
  return is_asked ? options_.processes->of_first(elapsed_seconds()) : elapsed_seconds();
}

bool Trainer::anywhere(bool is_so) const {
  return options_.processes ? options_.processes->any(is_so) : is_so;
}

/// Each process draws its own.
void Trainer::seed_draws(uint64_t seed) const {
  const auto rank = options_.processes ? options_.processes->rank() : 0;
  seed_generators(model_.device(), seed + static_cast<uint64_t>(rank));
}

RunWriter::Run Trainer::view() {
  return {.step = [this] { return step_; },
          .epochs = [this] { return cursor_.epochs(); },
          .elapsed_seconds = [this] { return elapsed_seconds(); },
          .state = [this] { return state(); },
          .check = [this] { watch_.check(); },
          .complete = [this](const fs::path& folder) { complete(folder); },
          .is_interrupted = [this] { return is_interrupted(); },
          .say = [this](const std::string& text) { say(text); }};
}

/// What `outrider verify` compares the saved folder with.
void Trainer::complete(const fs::path& folder) {
  verify::ProbeOptions probe;
  if (options_.shard_base) probe.without_outputs = "the processes hold the base together";
  if (teacher_cost_) probe.without_outputs = "the base computes in " + options_.base_precision;
  probe.base_hashes = base_hashes_;
  auto hashes = verify::write_probe(model_, folder, probe);
  if (!training_.trains_base()) base_hashes_.update(hashes);
}

void Trainer::train_to_the_end() {
  bool is_last = is_finished(clock_of_first());
  if (evaluation_pending_ && !is_last && every(options_.eval_steps)) {
    pause([&] { evaluate_and_log(); });
  }
  while (!is_last) {
    take_step();
    is_last = is_finished(clock_of_first());
    after_step(is_last);
    if (anywhere(is_interrupted())) first_alone([&] { writer_->stop_interrupted(); });
  }
  trace_.finish();
}

void Trainer::start() {
  seed_draws(options_.seed);
  first_alone([&] { open_writer(); });
  if (options_.resume) continue_run();
  if (finished_before_) return;
  first_alone([&] { begin_writing(); });
  note_what_is_special();
  started_ = Clock::now();
  if (options_.fit_tokens > 0 && step_ == 0) fit_drafts_first();
  share_before_ = share_done();
  interval_.restart_clock();
}

void Trainer::open_writer() {
  writer_.emplace(model_, options_, training_.trains_base(), view());
  writer_->record() = describe_run(options_, fixed_options(options_, schedule_.total_steps, model_),
                                   model_, data_, eval_data_);
}

void Trainer::begin_writing() {
  uint64_t optimizer_bytes = 0;
  for (const auto& [name, tensor] : training_.optimizer().state()) {
    optimizer_bytes += tensor.nbytes();
  }
  writer_->begin(schedule_.total_steps, optimizer_bytes, data_, selection_);
  take_up_history();
}

/// It counts as time of the run.
void Trainer::fit_drafts_first() {
  const auto begin = Clock::now();
  const auto on = fit_drafts(model_, data_, selection_, options_.fit_tokens, options_.max_length,
                             shown_progress("fit", "conversation"));
  work_.reset();
  training_.optimizer().take_up_parameters();
  const std::chrono::duration<double> seconds = Clock::now() - begin;
  say(fmt::format("fit: drafts start from regressions on {} tokens of {} conversations ({:.1f} s)",
                  on.tokens, on.conversations, seconds.count()));
}

void Trainer::note_what_is_special() {
  if (options_.packing) say(packing_note());
  if (teacher_cost_) say(teacher_cost_->note());
  if (data_.has_hidden_states())
    say("note: the data holds the base's hidden states: it is not run");
  note_length_beyond_the_base();
  if (selection_.skipped > 0) {
    say(fmt::format("note: {} of {} conversations have no training target in their first {} tokens",
                    selection_.skipped, data_.tokens().size(), options_.max_length));
  }
}

std::string Trainer::packing_note() const {
  const auto conversations = selection_.conversations.size(), rows = rows_.rows.size();
  const auto tokens = std::reduce(rows_.lengths.begin(), rows_.lengths.end(), int64_t{0});
  return fmt::format("packing: {} conversations in {} rows of {} tokens, {:.1f} % filled",
                     conversations, rows, options_.max_length,
                     100.0 * static_cast<double>(tokens) /
                         static_cast<double>(static_cast<int64_t>(rows) * options_.max_length));
}

/// The last results of a run that goes on, as if they had just been measured.
void Trainer::take_up_history() {
  const auto& history = writer_->history();
  if (eval_data_ && history.last_evaluation.is_object()) {
    const auto& json = history.last_evaluation["eval"];
    if (auto drafts = draft_results_in(json)) {
      evaluation_ = {json.value("conversations", int64_t{0}),
                     json.value("trained_tokens", int64_t{0}), *std::move(drafts)};
    }
  }
  if (eval_prompts_ && history.last_decoding.is_object()) {
    decoded_ = DecodedPrompts::read(history.last_decoding["decoding"]);
  }
  const auto& training = history.last_training;
  if (!draft_results_in(training) || !is_number(training, "loss") ||
      !is_number(training, "tokens_per_second")) {
    return;
  }
  metrics_ = training;
  for (const char* key : {"step", "elapsed_seconds"}) metrics_.erase(key);
}

// Positions that the base was never trained on; a scaled rotary embedding counts them already.
void Trainer::note_length_beyond_the_base() {
  const int64_t longest = std::ranges::max(selection_.lengths);
  const int64_t known = model_.config().max_position_embeddings;
  if (longest <= known) return;
  say(
      fmt::format("note: the longest conversation has {} tokens, more than the base's "
                  "max_position_embeddings ({}): --max-length {} cuts there",
                  longest, known, known));
}

/// Takes up the run that the folder holds, without a change to it.
void Trainer::continue_run() {
  const auto finished = first_says([&] {
    take_up_record();
    const auto summary = writer_->finished_before();
    return summary ? summary->dump() : std::string();
  });
  if (!finished.empty()) {
    finished_before_ = Json::parse(finished);
    return;
  }
  const fs::path checkpoint = first_says([&] { return checkpoint_to_continue().string(); });
  if (!checkpoint.empty()) load_checkpoint(checkpoint);
}

void Trainer::take_up_record() {
  auto& record = writer_->record();
  if (const auto before = writer_->record_before()) {
    require_same_options(record["fixed_options"], before->at("fixed_options"),
                         options_.output / RunFolder::kRecordFile);
    record["starts"] = before->at("starts");
    record["summary"] = before->value("summary", Json());
  }
  if (!writer_->finished_before()) return;
  say(fmt::format("note: the run in {} is finished; there is nothing to resume",
                  in_quotes(options_.output.string())));
}

/// Empty where the run has none.
fs::path Trainer::checkpoint_to_continue() {
  if (!options_.loaded_from.empty()) {
    // Chosen before this process had the folder to itself.
    if (options_.resume_from.empty()) require_newest(options_.output, options_.loaded_from);
    return options_.loaded_from;
  }
  if (const auto found = resume_point(options_.output, options_.resume_from)) return *found;
  say(fmt::format("note: {} holds no checkpoint yet: the run starts again from step 0",
                  in_quotes(options_.output.string())));
  return {};
}

void Trainer::load_checkpoint(const fs::path& checkpoint) {
  const auto saved = TrainingState::read(checkpoint);
  require_same_options(fixed_options(options_, schedule_.total_steps, model_), saved.options,
                       checkpoint);
  for (const auto& difference : differences(environment(model_), saved.environment)) {
    say(fmt::format("note: {}: results may differ in their last bits", difference));
  }
  if (options_.loaded_from.empty()) restore_weights(model_, checkpoint);
  training_.optimizer().load_state(saved.tensors);
  interval_.load_state(saved.tensors, model_.device());
  set_random_state(model_.device(), saved.tensors);
  // The state is the first process's.
  if (!is_first()) seed_draws(options_.seed + static_cast<uint64_t>(saved.step));
  cursor_ = BatchCursor(order_, saved.position);
  step_ = saved.step;
  if (writer_) writer_->resumed();
  evaluation_pending_ = saved.evaluation_pending;
  elapsed_before_ = saved.elapsed_seconds;
  say(fmt::format("resuming from {}", in_quotes(checkpoint.string())));
}

bool Trainer::is_finished(double seconds) const {
  const bool out_of_time = options_.max_seconds > 0 && seconds >= options_.max_seconds;
  return out_of_time || (schedule_.total_steps > 0 && step_ >= schedule_.total_steps);
}

/// Where passes are recorded, they have a stream of their own. Several processes meet within
/// theirs.
std::unique_ptr<SideStream> Trainer::stream_for_recording() {
  if (options_.processes) return nullptr;
  auto how = recording_of(options_, model_.device(), model_.config().hidden_size,
                          [this](const auto& text) { say(text); });
  if (!how) return nullptr;
  recorded_.emplace(training_, *std::move(how));
  return std::make_unique<SideStream>(model_.device());
}

ForwardOutput Trainer::learn(ForwardInput input, double share, size_t batches_left) {
  const bool is_last = batches_left == 1;
  if (!recorded_) return training_.learn(std::move(input), share, is_last);
  return recorded_->learn(std::move(input), share, is_last, /*is_only=*/share == 1.0);
}

void Trainer::take_step() {
  trace_.before_step();
  const auto batches = cursor_.next(options_.gradient_accumulation_steps);
  const double share = 1.0 / static_cast<double>(batches.size());
  for (size_t i = 0; i < batches.size(); ++i) {
    auto [input, counts] = batches_->part(batches[i]);
    auto output = learn(std::move(input), share, batches.size() - i);
    batches_->complete(output, counts);
    interval_.add(output, counts);
  }
  learning_rate_ = options_.learning_rate * schedule_.factor(step_, clock_of_first());
  auto result = training_.update(learning_rate_);
  if (options_.processes) options_.processes->sum_in_place({result.loss});
  gradient_norm_ = result.gradient_norm;
  ++step_;
  watch_.remember({step_, conversations_in(batches), std::move(result.loss), gradient_norm_});
}

void Trainer::after_step(bool is_last) {
  const bool logs = is_last || every(options_.logging_steps);
  // Elsewhere than on the CPU a look at each step would wait for it.
  if (logs || model_.device().is_cpu()) {
    wait_for_all();
    watch_.check();
  }
  if (logs) log_step();
  if (progress_ && !logs) progress_->update(progress_report());
  const bool evaluates_now = every(options_.eval_steps);
  if (is_last || !anywhere(evaluates_now || (writer_ && writer_->is_save_due()))) return;
  pause([&] {
    if (evaluates_now) evaluate_and_log();
    first_alone([&] { writer_->save_if_due(); });
  });
}

/// Until the step is computed. Where another process was lost in it, its numbers are none.
void Trainer::wait_for_all() const {
  if (!options_.processes) return;
  gradient_norm_.item<double>();
  options_.processes->require_all();
}

/// Time that is no training time.
void Trainer::pause(const std::function<void()>& work) {
  const auto paused = IntervalMetrics::Clock::now();
  work();
  interval_.leave_out(IntervalMetrics::Clock::now() - paused);
}

void Trainer::log_step() {
  metrics_ = interval_.report();
  metrics_["epoch"] = cursor_.epochs();
  metrics_["learning_rate"] = learning_rate_;
  metrics_["grad_norm"] = gradient_norm_.item<double>();
  metrics_["peak_memory_mib"] = peak_memory_mib();
  if (!model_.device().is_cpu()) {
    metrics_["device_peak_memory_mib"] = device_peak_memory_mib(model_.device());
  }
  interval_.restart();
  if (writer_) writer_->append(metrics_, on_metrics_);
  if (progress_) progress_->logged(progress_report());
}

/// Shows how far an evaluation is, and ends it where the run is interrupted.
EvaluationProgress Trainer::shown_progress(const std::string& work, const std::string& unit) {
  if (progress_) work_.emplace(*progress_, fmt::format("{}: {}", work, unit));
  return [this, work](int64_t done, int64_t total, int64_t tokens) {
    if (work_) work_->update(done, total, tokens);
    if (done < total && anywhere(is_interrupted())) {
      throw Error(ErrorCode::kInterrupted, work + " was interrupted");
    }
  };
}

void Trainer::evaluate() {
  const auto work = fmt::format("evaluation at step {}", step_);
  if (eval_data_) {
    evaluation_ = outrider::evaluate(model_, *eval_data_, *eval_batches_,
                                     options_.per_device_train_batch_size * batch_parts(options_),
                                     options_.max_length, shown_progress(work, "conversation"));
  }
  if (eval_prompts_) decoded_ = eval_prompts_->decode(model_, shown_progress(work, "prompt"));
}

void Trainer::evaluate_and_log() {
  evaluation_pending_ = true;
  try {
    evaluate();
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kInterrupted) throw;
    // Here the random generators are those of training again.
    first_alone([&] { writer_->stop_interrupted(); });
  }
  evaluation_pending_ = false;
  first_alone([&] {
    if (eval_prompts_) log_decoding();
    if (eval_data_) log_evaluation();
  });
}

void Trainer::log_decoding() {
  writer_->append({{"epoch", cursor_.epochs()}, {"decoding", decoded_->to_json()}}, on_metrics_);
  for (const auto& draft : decoded_->drafts) {
    const auto& [length, interval, positions] = draft.acceptance;
    say(fmt::format(
        "decoding at step {}: {} {:.2f} tokens per pass of the base (95 %: {:.2f} - "
        "{:.2f}), accepted at position 1, 2, …: {:.3f}",
        step_, draft.mode, length, interval.low, interval.high, fmt::join(positions, ", ")));
  }
}

void Trainer::log_evaluation() {
  writer_->append({{"epoch", cursor_.epochs()}, {"eval", evaluation_->to_json()}}, on_metrics_);
  for (const auto& draft : evaluation_->drafts) {
    say(fmt::format("eval at step {}: {} loss {:.4f}, expected acceptance length {:.2f}", step_,
                    draft.mode, draft.loss, draft.expected_acceptance_length));
  }
  if (!std::isfinite(evaluation_->loss())) say_what_is_not_finite();
  writer_->keep_if_best(*evaluation_, /*is_at_the_end=*/is_finished(elapsed_seconds()));
}

void Trainer::say_what_is_not_finite() {
  if (training_.trains_base() || options_.shard_base || !progress_) return;
  const auto held_out =
      select_conversations(eval_data_->tokens(), model_, options_.max_length).conversations;
  const auto fault = eval_data_->base_fault(model_, held_out, options_.max_length);
  if (fault)
    say(fmt::format("warning: {}: {}\nhint: {}", options_.eval_data.string(), fault->what(),
                    fault->hint()));
}

void Trainer::say(const std::string& text) {
  if (progress_) progress_->note(text);
}

Json Trainer::finish() {
  first_alone([&] { writer_->write_final(); });
  if (evaluates()) evaluate_and_log();
  if (!options_.processes) return writer_->finish(summary());
  return Json::parse(first_says([&] { return writer_->finish(summary()).dump(); }));
}

TrainingState Trainer::state() const {
  auto tensors = training_.optimizer().state();
  tensors.merge(interval_.state());
  tensors.merge(random_state(model_.device()));
  return {step_,
          cursor_.position(),
          elapsed_seconds(),
          fixed_options(options_, schedule_.total_steps, model_),
          environment(model_),
          std::move(tensors),
          evaluation_pending_,
          /*by_time=*/false};
}

Json Trainer::summary() const {
  int64_t trained = 0;
  for (const auto& parameter : training_.parameters()) trained += parameter.tensor.numel();
  return {{"final", (options_.output / "final").string()},
          {"steps", step_},
          {"epochs", cursor_.epochs()},
          {"elapsed_seconds", elapsed_seconds()},
          {"trained_parameters", trained},
          {"conversations", selection_.conversations.size()},
          {"skipped_conversations", selection_.skipped},
          {"metrics", metrics_},
          {"eval", evaluation_ ? evaluation_->to_json() : Json()},
          {"decoding", decoded_ ? decoded_->to_json() : Json()},
          {"teacher_cost", teacher_cost_ ? teacher_cost_->to_json() : Json()},
          {"report", (options_.output / RunReporter::kFileName).string()}};
}

double Trainer::elapsed_seconds() const {
  return elapsed_before_ + std::chrono::duration<double>(Clock::now() - started_).count();
}

double Trainer::share_done() const {
  const auto total = static_cast<double>(schedule_.total_steps);
  const double by_steps = total > 0 ? static_cast<double>(step_) / total : 0;
  const double by_time = options_.max_seconds > 0 ? elapsed_seconds() / options_.max_seconds : 0;
  return std::min(1.0, std::max(by_steps, by_time));
}

ProgressReport Trainer::progress_report() const {
  ProgressReport report;
  report.step = step_;
  report.total_steps = schedule_.total_steps;
  report.share = share_done();
  const double rate = (report.share - share_before_) / (elapsed_seconds() - elapsed_before_);
  if (rate > 0) report.eta_seconds = (1 - report.share) / rate;
  if (!metrics_.contains("loss")) return report;
  report.loss = metrics_["loss"].get<double>();
  if (evaluation_) report.held_out_loss = evaluation_->loss();
  report.tokens_per_second = metrics_["tokens_per_second"].get<double>();
  const auto& steps = metrics_["drafts"].at(0)["steps"];
  if (!steps.empty() && is_number(steps[0], "accuracy")) {
    report.accuracy = steps[0]["accuracy"].get<double>();
  }
  return report;
}

Json train(CausalLM& model, const TrainOptions& options, const MetricsCallback& on_metrics) {
  check_options(options);
  return Trainer(model, options, on_metrics).run();
}

}  // namespace outrider
