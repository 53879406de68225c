#include "trainer/run_writer.h"

#include <fmt/format.h>

#include <chrono>
#include <ratio>
#include <utility>

#include "machine/disk_room.h"
#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/host/checkpoint.h"
#include "outrider/text.h"
#include "trainer/patient_write.h"
#include "trainer/progress.h"
#include "trainer/resume_point.h"
#include "trainer/run_record.h"
#include "trainer/run_setup.h"

namespace outrider {

namespace fs = std::filesystem;

RunWriter::RunWriter(const CausalLM& model, const TrainOptions& options, bool trains_base, Run run)
    : model_(model),
      options_(options),
      trains_base_(trains_base),
      run_(std::move(run)),
      base_(options.save == "draft" ? std::optional(base_to_refer_to(options, trains_base))
                                    : std::nullopt),
      folder_(options.output, options.resume) {}

std::optional<Json> RunWriter::finished_before() const {
  auto summary = record_.value("summary", Json());
  if (!summary.is_object() || !fs::exists(options_.output / "final" / "config.json")) return {};
  return summary;
}

void RunWriter::begin(int64_t total_steps, uint64_t optimizer_bytes, const TrainingData& data,
                      const Selection& selection) {
  folder_.remove_leftovers();
  sizes_ = sizes(optimizer_bytes);
  look_for_room(total_steps);
  note_start();
  if (!options_.eval_data.empty()) best_.emplace(options_.output, data_sha256(options_.eval_data));
  log_.emplace(options_.output, run_.step());
  reporter_.emplace(options_.output, data.tokens(), selection, options_.max_length,
                    options_.token_text);
  saved_at_ = Clock::now();
}

/// The folder stays, so that the same command with --resume begins once there is room.
void RunWriter::look_for_room(int64_t total_steps) {
  try {
    require_room(options_, sizes_, total_steps, run_.step());
  } catch (const Error&) {
    folder_.keep();
    throw;
  }
}

void RunWriter::note_start() {
  for (const auto& place : set_aside_newer(options_.output, run_.step())) {
    run_.say(
        fmt::format("note: a checkpoint of a later step is now {}", in_quotes(place.string())));
  }
  record_["summary"] = nullptr;
  record_["starts"].push_back(describe_start(options_, run_.step(), model_));
  folder_.write_record(record_);
}

void RunWriter::append(Json line, const MetricsCallback& on_metrics) {
  line["step"] = run_.step();
  line["elapsed_seconds"] = run_.elapsed_seconds();
  if (!log_->append(line) && !std::exchange(lacks_log_, true)) {
    run_.say(
        "warning: the disk has no room for lines of metrics.jsonl: they are written when it has");
  }
  reporter_->add(line);
  folder_.keep();
  if (on_metrics) on_metrics(line);
}

void RunWriter::write_report(const std::string& status) {
  reporter_->write(status, record_, best_summary());
}

/// A report is worth less than the error that ended the run.
void RunWriter::report_failure(const std::string& reason) noexcept {
  try {
    if (folder_.is_kept()) write_report(reason);
  } catch (const std::exception&) {
  }
}

void RunWriter::save_if_due() {
  if (is_due_by_steps()) return try_to_write([&] { save_checkpoint(); });
  if (is_due_by_time() && has_room_to_save())
    try_to_write([&] { save_checkpoint(/*by_time=*/true); });
}

void RunWriter::keep_if_best(const Evaluation& evaluation, bool is_at_the_end) {
  const auto keep = [&] {
    if (!best_->is_beaten_by(evaluation)) return;
    run_.check();
    best_->replace(run_.step(), run_.epochs(), evaluation,
                   [&](const fs::path& folder) { write_model(folder, /*replace=*/false); });
  };
  is_at_the_end ? write_at_the_end(keep) : try_to_write(keep);
}

void RunWriter::write_final() {
  write_at_the_end([&] { write_model(options_.output / "final", /*replace=*/options_.resume); });
  folder_.keep();
}

Json RunWriter::finish(Json summary) {
  summary["best"] = best_summary();
  record_["summary"] = summary;
  write_at_the_end([&] {
    log_->flush();
    folder_.write_record(record_);
    write_report("Finished.");
  });
  return summary;
}

void RunWriter::write_model(const fs::path& folder, bool replace) const {
  save_pretrained(
      model_, folder,
      {.source = options_.source, .replace = replace, .base = base_, .complete = run_.complete});
}

void RunWriter::save_checkpoint(bool by_time) {
  if (saved_step_ == run_.step()) return;
  run_.check();
  log_->flush();  // a run that resumes here goes on behind these lines
  AtomicDirectory checkpoint(checkpoint_path(options_.output, run_.step()), /*replace=*/true);
  write_model(checkpoint.staging(), /*replace=*/false);
  auto state = run_.state();
  state.by_time = by_time;
  state.write(checkpoint.staging());
  checkpoint.commit();
  folder_.keep();
  saved_step_ = run_.step();
  saved_at_ = Clock::now();
  lacks_room_ = lacks_log_ = false;
  remove_old_checkpoints(options_.output, options_.save_total_limit);
  write_report(fmt::format("Running; this page is from step {}.", run_.step()));
}

bool RunWriter::is_due_by_steps() const {
  return options_.save_steps > 0 && run_.step() % options_.save_steps == 0;
}

bool RunWriter::is_due_by_time() const {
  const auto interval = std::chrono::duration<double, std::ratio<60>>(options_.save_minutes);
  return options_.save_minutes > 0 && Clock::now() - saved_at_ >= interval;
}

/// Those by time are made as room allows: the final model must fit beside them.
bool RunWriter::has_room_to_save() {
  if (has_room_for_checkpoint(options_, sizes_)) return true;
  saved_at_ = Clock::now();
  if (!std::exchange(lacks_room_, true)) {
    run_.say(fmt::format(
        "warning: no checkpoint at step {}: {} has {} free, and a checkpoint ({}) must "
        "leave room for the final model; training goes on",
        run_.step(), in_quotes(options_.output.string()),
        format_bytes(free_bytes(options_.output).value_or(0)), format_bytes(sizes_.checkpoint())));
  }
  return false;
}

/// Where the disk is full, training goes on: there may be room by the next time.
void RunWriter::try_to_write(const std::function<void()>& write) {
  try {
    write();
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kWriteFailed) throw;
    saved_at_ = Clock::now();
    run_.say(
        fmt::format("warning: {}; training goes on, and writes again when the next one is due ({})",
                    e.what(), what_is_kept()));
  }
}

/// A checkpoint without the base, which is in the folder that was trained.
void RunWriter::save_draft_checkpoint() {
  if (base_) return save_checkpoint();
  base_ = base_to_refer_to(options_, trains_base_);
  try {
    save_checkpoint();
  } catch (const Error&) {
    base_.reset();
    throw;
  }
  base_.reset();
}

/// A checkpoint of this step: with the base, or else without it. Throws kWriteFailed where not even
/// that fits.
void RunWriter::save_what_fits() {
  const bool may_leave_base = !trains_base_ && !base_;
  const auto free = free_bytes(options_.output);
  const bool fits = !free || with_margin(sizes_.checkpoint()) <= *free;
  try {
    if (fits || !may_leave_base) return save_checkpoint();
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kWriteFailed || !may_leave_base) throw;
  }
  save_draft_checkpoint();
}

std::string RunWriter::what_is_kept() const {
  if (saved_step_ == run_.step() && run_.step() > 0) {
    return fmt::format("{} holds everything so far",
                       in_quotes(checkpoint_path(options_.output, run_.step()).string()));
  }
  const auto saved = checkpoints(options_.output);
  if (saved.empty()) return fmt::format("none of the {} steps is saved", run_.step());
  return fmt::format("saved are {} of {} steps, in {}", step_in_name(saved.back()).value_or(0),
                     run_.step(), in_quotes(saved.back().string()));
}

void RunWriter::say_waiting(const Error& failure) {
  try {
    save_what_fits();
  } catch (const Error&) {
    // What is kept is said in any case.
  }
  if (options_.wait_for_room == 0) return;
  run_.say(fmt::format("warning: {}; {}; waiting up to {} for room (Ctrl-C ends that)",
                       failure.what(), what_is_kept(), format_duration(options_.wait_for_room)));
}

Error RunWriter::lacking_room(const Error& failure, uint64_t needed) const {
  return Error(failure.code(), fmt::format("{}; {}", failure.what(), what_is_kept()),
               fmt::format("make room ({} are needed), and continue with the same command and "
                           "--resume",
                           format_bytes(needed)));
}

/// What a run ends with is written as soon as there is room.
void RunWriter::write_at_the_end(const std::function<void()>& write) {
  const auto needed = with_margin(sizes_.model);
  try {
    write_patiently(write, {.seconds = options_.wait_for_room,
                            .has_room = [&] { return free_bytes(options_.output) >= needed; },
                            .stop = [&] { return run_.is_interrupted(); },
                            .on_wait = [&](const Error& failure) { say_waiting(failure); }});
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kWriteFailed) throw;
    throw lacking_room(e, needed);
  }
}

void RunWriter::stop_interrupted() {
  try {
    save_what_fits();
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kWriteFailed) throw;
    throw lacking_room(e, with_margin(sizes_.checkpoint()));
  }
  throw Error(ErrorCode::kInterrupted,
              fmt::format("interrupted after step {}; {} holds everything so far", run_.step(),
                          in_quotes(checkpoint_path(options_.output, run_.step()).string())),
              "continue with the same command and --resume");
}

RunSizes RunWriter::sizes(uint64_t optimizer_bytes) const {
  RunSizes sizes;
  sizes.model = saved_bytes(model_, {.source = options_.source, .base = base_});
  if (!trains_base_) {
    sizes.draft = saved_bytes(model_, {.source = options_.source, .base = BaseReference()});
  }
  sizes.optimizer = optimizer_bytes;
  return sizes;
}

}  // namespace outrider
