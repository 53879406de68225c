#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "bench/workload.h"
#include "outrider/api.h"
#include "outrider/host/trainer.h"
#include "outrider/json.h"

namespace outrider {

struct TrainBenchOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  int64_t steps = 10, warmup_steps = 6;
  TrainingSettings settings;  // base_precision, recompute, cuda_graphs and those of AdamW
  std::function<void(const std::string&)> on_note;
};

/// How fast a training step of a workload is here: tokens/s (median, least, most), memory, where
/// the time goes, and the share of the limit, which is the time of the step's operations at the
/// rate of a large matrix product measured in this process. Throws as the parts of a training run
/// do.
OUTRIDER_API Json bench_training(const Workload& workload, const TrainBenchOptions& options);

}  // namespace outrider
