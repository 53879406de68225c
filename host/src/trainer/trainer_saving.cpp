// What a run keeps of its work, and what it does where the disk is full.

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
#include "trainer/random_state.h"
#include "trainer/run_setup.h"
#include "trainer/trainer.h"

namespace outrider {

namespace fs = std::filesystem;

/// The folder stays, so that the same command with --resume begins once there is room.
void Trainer::look_for_room() {
  sizes_ = sizes();
  try {
    require_room(options_, sizes_, schedule_.total_steps, step_);
  } catch (const Error&) {
    folder_->keep();
    throw;
  }
}

TrainingState Trainer::state(bool by_time) const {
  auto tensors = optimizer_.state();
  tensors.merge(interval_.state());
  tensors.merge(random_state(model_.device()));
  return {step_,
          cursor_.position(),
          elapsed_seconds(),
          fixed_options(options_, schedule_.total_steps, model_),
          environment(model_),
          std::move(tensors),
          evaluation_pending_,
          by_time};
}

void Trainer::write_model(const fs::path& folder, bool replace) const {
  save_pretrained(model_, folder, {.source = options_.source, .replace = replace, .base = base_});
}

void Trainer::save_checkpoint(bool by_time) {
  if (saved_step_ == step_) return;
  watch_.check();
  log_->flush();  // a run that resumes here goes on behind these lines
  AtomicDirectory checkpoint(checkpoint_path(options_.output, step_), /*replace=*/true);
  write_model(checkpoint.staging(), /*replace=*/false);
  state(by_time).write(checkpoint.staging());
  checkpoint.commit();
  folder_->keep();
  saved_step_ = step_;
  saved_at_ = Clock::now();
  lacks_room_ = lacks_log_ = false;
  remove_old_checkpoints(options_.output, options_.save_total_limit);
  write_report(fmt::format("Running; this page is from step {}.", step_));
}

/// Those by time are made as room allows: the final model must fit beside them.
bool Trainer::save_is_due_by_time() {
  if (options_.save_minutes <= 0) return false;
  const auto interval = std::chrono::duration<double, std::ratio<60>>(options_.save_minutes);
  if (Clock::now() - saved_at_ < interval) return false;
  if (has_room_for_checkpoint(options_, sizes_)) return true;
  saved_at_ = Clock::now();
  if (!std::exchange(lacks_room_, true)) {
    say(fmt::format(
        "warning: no checkpoint at step {}: {} has {} free, and a checkpoint ({}) must "
        "leave room for the final model; training goes on",
        step_, in_quotes(options_.output.string()),
        format_bytes(free_bytes(options_.output).value_or(0)), format_bytes(sizes_.checkpoint())));
  }
  return false;
}

/// Where the disk is full, training goes on: there may be room by the next time.
void Trainer::try_to_write(const std::function<void()>& write) {
  try {
    write();
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kWriteFailed) throw;
    saved_at_ = Clock::now();
    say(fmt::format("warning: {}; training goes on, and writes again when the next one is due ({})",
                    e.what(), what_is_kept()));
  }
}

/// A checkpoint without the base, which is in the folder that was trained.
void Trainer::save_draft_checkpoint() {
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
void Trainer::save_what_fits() {
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

std::string Trainer::what_is_kept() const {
  if (saved_step_ == step_ && step_ > 0) {
    return fmt::format("{} holds everything so far",
                       in_quotes(checkpoint_path(options_.output, step_).string()));
  }
  const auto saved = checkpoints(options_.output);
  if (saved.empty()) return fmt::format("none of the {} steps is saved", step_);
  return fmt::format("saved are {} of {} steps, in {}", step_in_name(saved.back()).value_or(0),
                     step_, in_quotes(saved.back().string()));
}

void Trainer::say_waiting(const Error& failure) {
  try {
    save_what_fits();
  } catch (const Error&) {
    // What is kept is said in any case.
  }
  if (options_.wait_for_room == 0) return;
  say(fmt::format("warning: {}; {}; waiting up to {} for room (Ctrl-C ends that)", failure.what(),
                  what_is_kept(), format_duration(options_.wait_for_room)));
}

Error Trainer::lacking_room(const Error& failure, uint64_t needed) const {
  return Error(failure.code(), fmt::format("{}; {}", failure.what(), what_is_kept()),
               fmt::format("make room ({} are needed), and continue with the same command and "
                           "--resume",
                           format_bytes(needed)));
}

/// What a run ends with is written as soon as there is room.
void Trainer::write_at_the_end(const std::function<void()>& write) {
  const auto needed = with_margin(sizes_.model);
  try {
    write_patiently(write, {.seconds = options_.wait_for_room,
                            .has_room = [&] { return free_bytes(options_.output) >= needed; },
                            .stop = [&] { return is_interrupted(); },
                            .on_wait = [&](const Error& failure) { say_waiting(failure); }});
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kWriteFailed) throw;
    throw lacking_room(e, needed);
  }
}

void Trainer::stop_interrupted() {
  try {
    save_what_fits();
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kWriteFailed) throw;
    throw lacking_room(e, with_margin(sizes_.checkpoint()));
  }
  throw Error(ErrorCode::kInterrupted,
              fmt::format("interrupted after step {}; {} holds everything so far", step_,
                          in_quotes(checkpoint_path(options_.output, step_).string())),
              "continue with the same command and --resume");
}

RunSizes Trainer::sizes() const {
  RunSizes sizes;
  sizes.model = saved_bytes(model_, {.source = options_.source, .base = base_});
  if (!trains_base_) {
    sizes.draft = saved_bytes(model_, {.source = options_.source, .base = BaseReference()});
  }
  for (const auto& [name, tensor] : optimizer_.state()) sizes.optimizer += tensor.nbytes();
  return sizes;
}

}  // namespace outrider
