#pragma once

#include <cstdint>
#include <filesystem>

#include "outrider/api.h"
#include "outrider/host/token_shards.h"
#include "outrider/host/trainer.h"
#include "trainer/step_cost.h"

namespace outrider {

/// What a run is planned for: one GPU, and of TrainingSettings those that decide what it takes.
struct PlanOptions {
  TrainingSettings settings;       // its batch and accumulation are what is looked for
  double device_memory = 0.0;      // bytes
  double device_flops = 8e14;      // of a large matrix product
  double share_of_limit = 0.71;    // of that, what a whole step reaches
  int64_t target_rows = 16;        // of an update
  int64_t rows = 0;                // of a pass; 0: as many as fit
  bool has_held_out_data = false;  // then the best model is kept too
  std::filesystem::path source{};  // the folder that is trained
};

/// The part of a device's memory that a plan leaves free.
constexpr double kLeftFree = 0.05;

/// The passes of an update: as many rows in each as fit, and together at least target_rows.
struct PlannedBatch {
  int64_t rows = 1, passes = 1;
  StepMemory memory;
};

/// Rows of `length` positions. Throws kInvalidArgument where not even one fits, with what it takes.
OUTRIDER_API PlannedBatch planned_batch(const CausalLM& model, const PlanOptions& options,
                                        int64_t length);

/// One step of such rows: {"rows", "length", "passes", "memory", "seconds", "tokens_per_second",
/// "operations"}.
OUTRIDER_API Json plan_step(const CausalLM& model, const PlanOptions& options,
                            const PlannedBatch& batch, int64_t length);

/// The whole run: {"step" as plan_step(), "run", "disk"}.
OUTRIDER_API Json plan_run(const CausalLM& model, const TokenShards& data,
                           const PlanOptions& options);

}  // namespace outrider
