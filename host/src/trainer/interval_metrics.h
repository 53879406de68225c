#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <string>
#include <vector>

#include "data/batches.h"
#include "outrider/json.h"
#include "trainer/draft_meter.h"

namespace outrider {

/// Means and rates over the steps since the last logged one.
class IntervalMetrics {
 public:
  using Clock = std::chrono::steady_clock;

  explicit IntervalMetrics(std::vector<std::string> modes) : drafts_(std::move(modes)) {}

  /// One forward pass.
  void add(const ForwardOutput& output, const TokenCounts& counts);
  /// Time that was spent on something else than training.
  void leave_out(Clock::duration duration) { since_ += duration; }

  /// {"loss", "drafts", "tokens_per_second", "trained_tokens_per_second"}, and "lm_loss" where the
  /// base is trained; synchronises.
  Json report() const;
  void restart();
  void restart_clock() { since_ = Clock::now(); }

  /// The sums, for a checkpoint: an interval that a restart divides is reported whole.
  TensorMap state() const;
  void load_state(const TensorMap& state, at::Device device);

 private:
  DraftMeter drafts_;
  at::Tensor losses_;  // float64 [3]: the sums of loss and LM loss, the number of passes
  bool has_lm_loss_ = false;
  TokenCounts counts_;
  Clock::time_point since_ = Clock::now();
};

}  // namespace outrider
