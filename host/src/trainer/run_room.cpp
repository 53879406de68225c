#include "trainer/run_room.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "machine/disk_room.h"
#include "outrider/error.h"
#include "outrider/text.h"
#include "trainer/best_checkpoint.h"
#include "trainer/training_state.h"

namespace outrider {
namespace {

/// The folders that a run still adds to its disk. One that is replaced is there twice for a moment.
struct Folders {
  int64_t models = 1;  // final, best
  int64_t checkpoints = 0;
};

int64_t models_to_write(const TrainOptions& options, int64_t total_steps, int64_t step) {
  if (options.eval_data.empty()) return 1;
  const bool evaluates_again =
      options.eval_steps > 0 && (total_steps == 0 || step + options.eval_steps < total_steps);
  const bool has_best = std::filesystem::exists(options.output / BestCheckpoint::kFolder);
  return evaluates_again && !has_best ? 3 : 2;
}

int64_t checkpoints_to_write(const TrainOptions& options, int64_t total_steps, int64_t step) {
  if (options.save_steps == 0) return 0;
  const int64_t last = total_steps > 0 ? total_steps - 1 : step + options.save_steps;
  const int64_t due = std::max<int64_t>(0, last / options.save_steps - step / options.save_steps);
  if (options.save_total_limit == 0) return due;
  const auto held = static_cast<int64_t>(checkpoints(options.output).size());
  return std::min(due, std::max<int64_t>(1, options.save_total_limit + 1 - held));
}

uint64_t bytes_of(const Folders& folders, uint64_t model, uint64_t optimizer) {
  const auto models = static_cast<uint64_t>(folders.models + folders.checkpoints);
  return with_margin(models * model + static_cast<uint64_t>(folders.checkpoints) * optimizer);
}

std::string checkpoint_part(const TrainOptions& options, const RunSizes& sizes, int64_t count) {
  const bool one_is_replaced = options.save_total_limit > 0 && count > options.save_total_limit;
  return fmt::format("{} checkpoint{} of {} ({} of weights, {} of optimizer state){}", count,
                     count > 1 ? "s" : "", format_bytes(sizes.checkpoint()),
                     format_bytes(sizes.model), format_bytes(sizes.optimizer),
                     one_is_replaced ? ", one of them while the oldest is replaced" : "");
}

std::string parts(const TrainOptions& options, const RunSizes& sizes, const Folders& folders) {
  auto text = "the final model " + format_bytes(sizes.model);
  if (folders.models > 1) text += ", the best one " + format_bytes(sizes.model);
  if (folders.models > 2) text += " and twice that while it is replaced";
  if (folders.checkpoints > 0) text += ", " + checkpoint_part(options, sizes, folders.checkpoints);
  return text;
}

std::string advice(const TrainOptions& options, const RunSizes& sizes, const Folders& folders) {
  std::vector<std::string> ways = {"free some space", "choose an --out on another disk"};
  if (options.save != "draft" && sizes.draft > 0) {
    ways.push_back(fmt::format("give --save draft, which leaves the base out: {} in all",
                               format_bytes(bytes_of(folders, sizes.draft, sizes.optimizer))));
  }
  if (folders.checkpoints > 2) ways.push_back("give a smaller --save-total-limit");
  if (folders.checkpoints > 0) ways.push_back("give a larger --save-steps");
  return join(ways, ", or ");
}

}  // namespace

void require_room(const TrainOptions& options, const RunSizes& sizes, int64_t total_steps,
                  int64_t step) {
  const Folders folders{models_to_write(options, total_steps, step),
                        checkpoints_to_write(options, total_steps, step)};
  const auto needed = bytes_of(folders, sizes.model, sizes.optimizer);
  const auto free = free_bytes(options.output);
  if (!free || needed <= *free) return;
  throw Error(ErrorCode::kWriteFailed,
              fmt::format("{}: the run writes {}, its disk has {} free: {}",
                          in_quotes(options.output.string()), format_bytes(needed),
                          format_bytes(*free), parts(options, sizes, folders)),
              advice(options, sizes, folders));
}

bool has_room_for_checkpoint(const TrainOptions& options, const RunSizes& sizes) {
  const Folders folders{options.eval_data.empty() ? 1 : 2, 1};
  const auto free = free_bytes(options.output);
  return !free || bytes_of(folders, sizes.model, sizes.optimizer) <= *free;
}

}  // namespace outrider
