#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "outrider/api.h"

namespace outrider {

/// The names that lr_factor accepts.
OUTRIDER_API const std::vector<std::string>& lr_scheduler_types();

/// What the learning rate is multiplied with at optimizer step `step` (from 0) of `total`: a linear
/// rise from 0 over `warmup` steps, then "linear" or "cosine" decay to 0, or "constant". The values
/// are those of get_scheduler in transformers. `type` must be a known one.
OUTRIDER_API double lr_factor(const std::string& type, int64_t step, int64_t warmup, int64_t total);

/// The schedule of a run. A run with a time limit decays with the share of the time that has passed
/// (and warms up over `warmup_ratio` of it, unless `warmup_steps` counts steps); such a run is not
/// reproducible. With both limits the smaller factor counts, so that the earlier end finishes it.
struct OUTRIDER_API LrSchedule {
  std::string type = "linear";
  int64_t warmup_steps = 0, total_steps = 0;  // total_steps = 0: only time ends the run
  double warmup_ratio = 0, max_seconds = 0;   // max_seconds = 0: only steps end the run

  double factor(int64_t step, double elapsed_seconds) const;

 private:
  int64_t warmup() const;
  double time_factor(double share) const;
};

}  // namespace outrider
