#include "trainer/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace outrider {
namespace {

/// `progress` is the share of the decay that is done; it exceeds 1 after the end.
double decay(const std::string& type, double progress) {
  if (type == "constant") return 1.0;
  if (type == "linear") return std::max(0.0, 1.0 - progress);
  return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

double warm_up(double done, double whole) { return done < whole ? done / whole : 1.0; }

}  // namespace

const std::vector<std::string>& lr_scheduler_types() {
  static const std::vector<std::string> types = {"linear", "cosine", "constant"};
  return types;
}

double lr_factor(const std::string& type, int64_t step, int64_t warmup, int64_t total) {
  if (step < warmup) return warm_up(step, warmup);
  const auto span = static_cast<double>(std::max<int64_t>(1, total - warmup));
  if (type == "linear") return std::max(0.0, static_cast<double>(total - step) / span);
  return decay(type, static_cast<double>(step - warmup) / span);
}

int64_t LrSchedule::warmup() const {
  if (warmup_steps > 0) return warmup_steps;
  return static_cast<int64_t>(std::ceil(static_cast<double>(total_steps) * warmup_ratio));
}

double LrSchedule::time_factor(double share) const {
  const double rise = warmup_steps > 0 || total_steps > 0 ? 1.0 : warm_up(share, warmup_ratio);
  return std::min(rise, decay(type, share));
}

double LrSchedule::factor(int64_t step, double elapsed_seconds) const {
  const double by_steps =
      total_steps > 0 ? lr_factor(type, step, warmup(), total_steps) : warm_up(step, warmup_steps);
  if (max_seconds <= 0) return by_steps;
  return std::min(by_steps, time_factor(std::min(1.0, elapsed_seconds / max_seconds)));
}

}  // namespace outrider
