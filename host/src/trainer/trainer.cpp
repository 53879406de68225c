#include "trainer/trainer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <iostream>
#include <utility>

#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/held_out.h"
#include "outrider/text.h"
#include "trainer/random_state.h"
#include "trainer/resume_point.h"
#include "trainer/run_record.h"
#include "trainer/run_setup.h"
#include "trainer/train_options.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

const TrainOptions& checked(const TrainOptions& options) {
  check_options(options);
  return options;
}

std::optional<TrainingData> open_if_given(const fs::path& folder, const CausalLM& model) {
  if (folder.empty()) return std::nullopt;
  return TrainingData(folder, model);
}

AdamWOptions optimizer_options(const TrainOptions& options) {
  return {options.adam_beta1, options.adam_beta2, options.adam_epsilon, options.weight_decay,
          options.max_grad_norm};
}

bool is_number(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_number();
}

bool has_keys(const Json& json, std::initializer_list<const char*> keys) {
  return json.is_object() &&
         std::ranges::all_of(keys, [&](auto* key) { return json.contains(key); });
}

/// Whether a line that was read from a file has what this program writes about drafts.
bool has_results(const Json& line) {
  const auto is_step = [](const Json& step) {
    return has_keys(step, {"name", "loss", "accuracy", "overlap"}) && step["name"].is_string();
  };
  const auto is_draft = [&](const Json& draft) {
    return has_keys(draft, {"mode", "loss", "steps", "expected_acceptance_length",
                            "expected_acceptance_length_sampling"}) &&
           draft["mode"].is_string() && draft["loss"].is_number() && draft["steps"].is_array() &&
           std::ranges::all_of(draft["steps"], is_step);
  };
  return has_keys(line, {"drafts"}) && line["drafts"].is_array() && !line["drafts"].empty() &&
         std::ranges::all_of(line["drafts"], is_draft);
}

std::vector<int64_t> flattened(const std::vector<std::vector<int64_t>>& batches) {
  std::vector<int64_t> all;
  for (const auto& batch : batches) all.insert(all.end(), batch.begin(), batch.end());
  return all;
}

}  // namespace

Trainer::Trainer(CausalLM& model, const TrainOptions& options, MetricsCallback on_metrics)
    : model_(model),
      options_(checked(options)),
      on_metrics_(std::move(on_metrics)),
      parameters_(trainable_parameters(model)),
      trains_base_(includes_base(parameters_, model)),
      data_(options.data, model),
      eval_data_(open_if_given(options.eval_data, model)),
      selection_(select_conversations(data_.tokens(), model, options.max_length)),
      order_(selection_.conversations, selection_.lengths, options.per_device_train_batch_size,
             options.seed),
      cursor_(order_, {}),
      schedule_{options.lr_scheduler_type, options.warmup_steps,
                planned_steps(options, order_.batches_per_epoch()), options.warmup_ratio,
                options.max_seconds},
      optimizer_(parameters_, optimizer_options(options)),
      interval_(mode_names(model)),
      watch_(options.data, [this](const auto& conversations) -> std::optional<Error> {
        // Of a base that is trained, the step itself has spoiled what could be looked at.
        if (trains_base_) return std::nullopt;
        return data_.base_fault(model_, conversations, options_.max_length);
      }) {
  if (options.save == "draft") base_ = base_to_refer_to(options, trains_base_);
  if (eval_data_) select_conversations(eval_data_->tokens(), model, options.max_length);
  if (options.progress) progress_.emplace(std::cerr, terminal_width(STDERR_FILENO));
}

Json Trainer::run() {
  interrupt_.emplace();
  const DraftTrainingScope training_mode(model_);
  start();
  if (auto summary = finished_before()) return *std::move(summary);
  try {
    train_to_the_end();
    return finish();
  } catch (const Error& e) {
    report_failure(e.what());
    throw;
  }
}

void Trainer::train_to_the_end() {
  bool is_last = finished();
  if (evaluation_pending_ && !is_last && every(options_.eval_steps)) {
    pause([&] { evaluate_and_log(); });
  }
  while (!is_last) {
    take_step();
    is_last = finished();
    after_step(is_last);
    if (is_interrupted()) stop_interrupted();
  }
}

void Trainer::start() {
  seed_generators(model_.device(), options_.seed);
  folder_.emplace(options_.output, options_.resume);
  record_ = describe_run(options_, fixed_options(options_, schedule_.total_steps, model_), model_,
                         data_, eval_data_);
  if (options_.resume) continue_run();
  if (finished_before()) return;
  folder_->remove_leftovers();
  look_for_room();
  note_start();
  if (eval_data_) best_.emplace(options_.output, data_sha256(options_.eval_data));
  log_.emplace(options_.output, step_);
  reporter_.emplace(options_.output, data_.tokens(), selection_, options_.max_length,
                    options_.token_text);
  take_up_history();
  note_what_is_special();
  started_ = saved_at_ = Clock::now();
  share_before_ = share_done();
  interval_.restart_clock();
}

void Trainer::note_what_is_special() {
  if (data_.has_hidden_states())
    say("note: the data holds the base's hidden states: it is not run");
  note_length_beyond_the_base();
  if (selection_.skipped > 0) {
    say(fmt::format("note: {} of {} conversations have no training target in their first {} tokens",
                    selection_.skipped, data_.tokens().size(), options_.max_length));
  }
}

/// The last results of a run that goes on, as if they had just been measured.
void Trainer::take_up_history() {
  const auto& history = reporter_->history();
  if (eval_data_ && history.last_evaluation.is_object() &&
      has_results(history.last_evaluation["eval"])) {
    evaluation_ = history.last_evaluation["eval"];
  }
  const auto& training = history.last_training;
  if (!has_results(training) || !is_number(training, "loss") ||
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
  const auto before = folder_->record();
  if (before) {
    require_same_options(record_["fixed_options"], before->at("fixed_options"),
                         options_.output / RunFolder::kRecordFile);
    record_["starts"] = before->at("starts");
    record_["summary"] = before->value("summary", Json());
  }
  if (finished_before()) {
    say(fmt::format("note: the run in {} is finished; there is nothing to resume",
                    in_quotes(options_.output.string())));
  } else if (const auto checkpoint = resume_point(options_.output, options_.resume_from)) {
    load_checkpoint(*checkpoint);
  } else {
    say(fmt::format("note: {} holds no checkpoint yet: the run starts again from step 0",
                    in_quotes(options_.output.string())));
  }
}

void Trainer::load_checkpoint(const fs::path& checkpoint) {
  const auto saved = TrainingState::read(checkpoint);
  require_same_options(record_["fixed_options"], saved.options, checkpoint);
  for (const auto& difference : differences(environment(model_), saved.environment)) {
    say(fmt::format("note: {}: results may differ in their last bits", difference));
  }
  restore_weights(model_, checkpoint);
  optimizer_.load_state(saved.tensors);
  interval_.load_state(saved.tensors, model_.device());
  set_random_state(model_.device(), saved.tensors);
  cursor_ = BatchCursor(order_, saved.position);
  step_ = saved_step_ = saved.step;
  evaluation_pending_ = saved.evaluation_pending;
  elapsed_before_ = saved.elapsed_seconds;
  say(fmt::format("resuming from {}", in_quotes(checkpoint.string())));
}

std::optional<Json> Trainer::finished_before() const {
  const auto& summary = record_["summary"];
  if (!summary.is_object() || !fs::exists(options_.output / "final" / "config.json")) return {};
  return summary;
}

void Trainer::note_start() {
  for (const auto& place : set_aside_newer(options_.output, step_)) {
    say(fmt::format("note: a checkpoint of a later step is now {}", in_quotes(place.string())));
  }
  record_["summary"] = nullptr;
  record_["starts"].push_back(describe_start(options_, step_, model_));
  folder_->write_record(record_);
}

bool Trainer::finished() const {
  const bool out_of_time = options_.max_seconds > 0 && elapsed_seconds() >= options_.max_seconds;
  return out_of_time || (schedule_.total_steps > 0 && step_ >= schedule_.total_steps);
}

ForwardOutput Trainer::forward(const std::vector<int64_t>& conversations) {
  auto [input, counts] = data_.batch(conversations, options_.max_length);
  input.want_lm_loss = trains_base_;
  auto output = model_.forward(input);
  interval_.add(output, counts);
  return output;
}

at::Tensor Trainer::learn_from(const std::vector<std::vector<int64_t>>& batches) {
  at::Tensor mean;
  for (const auto& conversations : batches) {
    const auto loss = forward(conversations).loss / static_cast<double>(batches.size());
    loss.backward();
    optimizer_.collect_gradients();
    mean = mean.defined() ? mean + loss.detach() : loss.detach();
  }
  return mean;
}

void Trainer::take_step() {
  const auto batches = cursor_.next(options_.gradient_accumulation_steps);
  const auto loss = learn_from(batches);
  learning_rate_ = options_.learning_rate * schedule_.factor(step_, elapsed_seconds());
  gradient_norm_ = optimizer_.step(learning_rate_);
  ++step_;
  watch_.remember({step_, flattened(batches), loss, gradient_norm_});
}

void Trainer::after_step(bool is_last) {
  const bool logs = is_last || every(options_.logging_steps);
  // Elsewhere than on the CPU a look at each step would wait for it.
  if (logs || model_.device().is_cpu()) watch_.check();
  if (logs) log_step();
  if (progress_ && !logs) progress_->update(progress_report());
  pause([&] {
    if (!is_last && every(options_.eval_steps)) evaluate_and_log();
    if (is_last) return;
    if (every(options_.save_steps)) return try_to_write([&] { save_checkpoint(); });
    if (save_is_due_by_time()) try_to_write([&] { save_checkpoint(/*by_time=*/true); });
  });
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
  interval_.restart();
  record(metrics_);
  if (progress_) progress_->logged(progress_report());
}

Json Trainer::evaluate_held_out() {
  std::optional<WorkProgress> work;
  if (progress_) {
    work.emplace(*progress_, fmt::format("evaluation at step {}: conversation", step_));
  }
  return evaluate(model_, *eval_data_, options_.per_device_train_batch_size, options_.max_length,
                  [&](int64_t done, int64_t total, int64_t tokens) {
                    if (work) work->update(done, total, tokens);
                    if (done < total && is_interrupted()) {
                      throw Error(ErrorCode::kInterrupted, "the evaluation was interrupted");
                    }
                  });
}

void Trainer::evaluate_and_log() {
  evaluation_pending_ = true;
  try {
    evaluation_ = evaluate_held_out();
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kInterrupted) throw;
    stop_interrupted();  // here the random generators are those of training again
  }
  evaluation_pending_ = false;
  record({{"epoch", cursor_.epochs()}, {"eval", evaluation_}});
  for (const auto& draft : evaluation_["drafts"]) {
    say(fmt::format("eval at step {}: {} loss {:.4f}, expected acceptance length {:.2f}", step_,
                    draft["mode"].get<std::string>(), draft["loss"].get<double>(),
                    draft["expected_acceptance_length"].get<double>()));
  }
  if (!std::isfinite(held_out_loss(evaluation_))) say_what_is_not_finite();
  const auto keep = [&] { keep_if_best(); };
  finished() ? write_at_the_end(keep) : try_to_write(keep);
}

void Trainer::say_what_is_not_finite() {
  if (trains_base_ || !progress_) return;
  const auto held_out =
      select_conversations(eval_data_->tokens(), model_, options_.max_length).conversations;
  const auto fault = eval_data_->base_fault(model_, held_out, options_.max_length);
  if (fault)
    say(fmt::format("warning: {}: {}\nhint: {}", options_.eval_data.string(), fault->what(),
                    fault->hint()));
}

void Trainer::keep_if_best() {
  if (!best_->is_beaten_by(evaluation_)) return;
  watch_.check();
  best_->replace(step_, cursor_.epochs(), evaluation_,
                 [&](const fs::path& folder) { write_model(folder, /*replace=*/false); });
}

void Trainer::record(Json line) {
  line["step"] = step_;
  line["elapsed_seconds"] = elapsed_seconds();
  if (!log_->append(line) && !std::exchange(lacks_log_, true)) {
    say("warning: the disk has no room for lines of metrics.jsonl: they are written when it has");
  }
  reporter_->add(line);
  folder_->keep();
  if (on_metrics_) on_metrics_(line);
}

void Trainer::write_report(const std::string& status) {
  reporter_->write(status, record_, best_ ? best_->summary() : Json());
}

/// A report is worth less than the error that ended the run.
void Trainer::report_failure(const std::string& reason) noexcept {
  try {
    if (folder_->is_kept()) write_report(reason);
  } catch (const std::exception&) {
  }
}

void Trainer::say(const std::string& text) {
  if (progress_) progress_->note(text);
}

Json Trainer::finish() {
  write_at_the_end([&] { write_model(options_.output / "final", /*replace=*/options_.resume); });
  folder_->keep();
  if (eval_data_) evaluate_and_log();
  auto result = summary();
  record_["summary"] = result;
  write_at_the_end([&] {
    log_->flush();
    folder_->write_record(record_);
    write_report("Finished.");
  });
  return result;
}

Json Trainer::summary() const {
  int64_t trained = 0;
  for (const auto& parameter : parameters_) trained += parameter.tensor.numel();
  return {{"final", (options_.output / "final").string()},
          {"steps", step_},
          {"epochs", cursor_.epochs()},
          {"elapsed_seconds", elapsed_seconds()},
          {"trained_parameters", trained},
          {"conversations", selection_.conversations.size()},
          {"skipped_conversations", selection_.skipped},
          {"metrics", metrics_},
          {"eval", evaluation_},
          {"best", best_ ? best_->summary() : Json()},
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
  if (evaluation_.is_object()) report.held_out_loss = held_out_loss(evaluation_);
  report.tokens_per_second = metrics_["tokens_per_second"].get<double>();
  const auto& steps = metrics_["drafts"].at(0)["steps"];
  if (!steps.empty() && is_number(steps[0], "accuracy")) {
    report.accuracy = steps[0]["accuracy"].get<double>();
  }
  return report;
}

Json train(CausalLM& model, const TrainOptions& options, const MetricsCallback& on_metrics) {
  return Trainer(model, options, on_metrics).run();
}

}  // namespace outrider
