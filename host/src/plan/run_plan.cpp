#include "plan/run_plan.h"

#include <c10/core/ScalarType.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "data/batch_order.h"
#include "data/batches.h"
#include "machine/disk_room.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "trainer/step_setup.h"

namespace outrider {
namespace {

constexpr double kGiB = 1 << 30;
constexpr int64_t kWidthMultiple = 64;  // of batches on a GPU, see docs/performance.md

int64_t padded_width(int64_t length) {
  return (length + kWidthMultiple - 1) / kWidthMultiple * kWidthMultiple;
}

PlannedStep step_of(const CausalLM& model, const PlanOptions& options, int64_t rows, int64_t length,
                    int64_t passes) {
  const auto recording =
      recording_of(options.settings, at::Device(at::kCUDA), model.config().hidden_size, {});
  PlannedStep step{{rows, length, recompute_asked(options.settings)}};
  step.accumulates = passes > 1;
  step.is_recorded = recording && rows * length <= recording->most_tokens.value_or(rows * length);
  step.base_in_eight_bits = options.settings.base_precision == "fp8";
  if (options.settings.recompute == "auto") {
    step.shape.most_kept = room_for_products(model, step, options.device_memory);
  }
  return step;
}

int64_t passes_for(int64_t target, int64_t rows) { return (target + rows - 1) / rows; }

double seconds_of(const CausalLM& model, const PlanOptions& options, int64_t rows, int64_t length) {
  const auto step = step_of(model, options, rows, length, 1);
  const auto operations = operations_of(model, step.shape);
  const double base = operations.base / (step.base_in_eight_bits ? 2 : 1);
  return (base + operations.draft) / (options.device_flops * options.share_of_limit);
}

/// Rows by their padded width, in the batches of an epoch.
struct EpochShape {
  std::map<int64_t, int64_t> rows_of_width;
  int64_t batches = 0, tokens = 0, longest = 0;
};

PackedRows rows_of(const TokenShards& data, const CausalLM& model, const PlanOptions& options) {
  const auto& settings = options.settings;
  const auto selection = select_conversations(data, model, settings.max_length);
  return settings.packing ? packed(selection.conversations, selection.lengths, settings.max_length)
                          : unpacked(selection.conversations, selection.lengths);
}

int64_t longest_row(const PackedRows& rows, const PlanOptions& options) {
  return options.settings.packing ? options.settings.max_length
                                  : padded_width(std::ranges::max(rows.lengths));
}

EpochShape shape_of_epoch(const PackedRows& rows, int64_t batch_rows, const PlanOptions& options) {
  EpochShape shape;
  std::map<int64_t, int64_t> length_of;  // by a row's first conversation
  for (size_t i = 0; i < rows.rows.size(); ++i) {
    length_of[rows.rows[i].front()] = rows.lengths[i];
    shape.tokens += rows.lengths[i];
  }
  for (const auto& batch : BatchOrder(rows, batch_rows, 0).epoch(0)) {
    int64_t width = 0;
    for (const auto& row : batch) width = std::max(width, length_of.at(row.front()));
    width = options.settings.packing ? options.settings.max_length : padded_width(width);
    shape.rows_of_width[width] += static_cast<int64_t>(batch.size());
    ++shape.batches;
  }
  return shape;
}

Json disk_of(const CausalLM& model, const PlanOptions& options, int64_t tokens) {
  const auto& settings = options.settings;
  SaveOptions save{.source = options.source};
  if (settings.save == "draft") save.base.emplace();
  const auto folder = static_cast<double>(saved_bytes(model, save));
  const double checkpoint = folder + optimizer_bytes(model);
  // The oldest is removed once the newest is there.
  const auto kept = static_cast<double>(settings.save_total_limit + 1);
  const double models = options.has_held_out_data ? 3 : 1;  // the best is there twice for a moment
  const auto request = model.hidden_states_needed();
  const auto states = static_cast<double>(request.layer_outputs.size() + 1);
  const double per_token = states * static_cast<double>(model.config().hidden_size) *
                           static_cast<double>(c10::elementSize(model.dtype()));
  return {{"model", folder},
          {"checkpoint", checkpoint},
          {"checkpoints", kept},
          {"run", models * folder + kept * checkpoint},
          {"hidden_states_if_stored", per_token * static_cast<double>(tokens)}};
}

[[noreturn]] void refuse(const StepMemory& memory, const PlanOptions& options, int64_t length) {
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("one row of {} tokens takes {:.1f} GiB, and of {:.1f} GiB {:.1f} may be "
                  "taken: base {:.1f}, draft and optimizer {:.1f}, the rest what a pass "
                  "makes",
                  length, memory.total() / kGiB, options.device_memory / kGiB,
                  (1 - kLeftFree) * options.device_memory / kGiB, memory.base / kGiB,
                  (memory.draft + memory.optimizer + memory.gradients) / kGiB),
      "a shorter --max-length, --base-precision fp8, --recompute products, a smaller draft, "
      "or a device with more memory");
}

}  // namespace

PlannedBatch planned_batch(const CausalLM& model, const PlanOptions& options, int64_t length) {
  const double most = (1 - kLeftFree) * options.device_memory;
  const auto with = [&](int64_t rows, int64_t passes) {
    return PlannedBatch{rows, passes,
                        memory_of(model, step_of(model, options, rows, length, passes))};
  };
  if (options.rows > 0) return with(options.rows, passes_for(options.target_rows, options.rows));
  for (int64_t rows = options.target_rows;; --rows) {
    const auto passes = passes_for(options.target_rows, rows);
    auto batch = with(passes_for(options.target_rows, passes), passes);
    if (batch.memory.total() <= most) return batch;
    if (rows == 1) refuse(batch.memory, options, length);
  }
}

Json plan_step(const CausalLM& model, const PlanOptions& options, const PlannedBatch& batch,
               int64_t length) {
  const double seconds =
      static_cast<double>(batch.passes) * seconds_of(model, options, batch.rows, length);
  const auto tokens = static_cast<double>(batch.rows * batch.passes * length);
  const auto operations = operations_of(model, {batch.rows, length});
  return {{"rows", batch.rows},
          {"length", length},
          {"passes", batch.passes},
          {"memory", batch.memory.to_json()},
          {"seconds", seconds},
          {"tokens_per_second", tokens / seconds},
          {"operations", {{"base", operations.base}, {"draft", operations.draft}}}};
}

Json plan_run(const CausalLM& model, const TokenShards& data, const PlanOptions& options) {
  const auto rows = rows_of(data, model, options);
  const auto length = longest_row(rows, options);
  const auto batch = planned_batch(model, options, length);
  const auto epoch = shape_of_epoch(rows, batch.rows, options);
  double seconds = 0.0, positions = 0.0;
  for (const auto& [width, count] : epoch.rows_of_width) {
    seconds += seconds_of(model, options, count, width);
    positions += static_cast<double>(count * width);
  }
  const double epochs = options.settings.num_train_epochs;
  const auto updates =
      std::ceil(epochs * static_cast<double>(passes_for(epoch.batches, batch.passes)));
  return {{"step", plan_step(model, options, batch, length)},
          {"run",
           {{"epochs", epochs},
            {"updates", static_cast<int64_t>(updates)},
            {"tokens", epochs * static_cast<double>(epoch.tokens)},
            {"filled", static_cast<double>(epoch.tokens) / positions},
            {"seconds", epochs * seconds},
            {"tokens_per_second", static_cast<double>(epoch.tokens) / seconds}}},
          {"disk", disk_of(model, options, epoch.tokens)}};
}

}  // namespace outrider
