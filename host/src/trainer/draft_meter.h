#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "outrider/checkpoint/tensor_io.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// Means of draft losses over batches, weighted by trained positions. Sums stay on the model's
/// device until a report reads them.
class OUTRIDER_API DraftMeter {
 public:
  explicit DraftMeter(std::vector<std::string> modes);

  /// One batch's losses, one per draft; every call must bring the same steps.
  void add(const std::vector<DraftLoss>& losses);

  /// Per draft {"mode", "loss", "steps": [{"name", "loss", "accuracy", "overlap", "count"}],
  /// "expected_acceptance_length", "expected_acceptance_length_sampling"}. "loss" is the draft's
  /// total, weighted by the positions of its first step; the two lengths follow from the accuracies
  /// (greedy drafting) and the overlaps (speculative sampling). Empty before the first batch.
  Json report() const;
  void reset();

  /// The sums under "metrics.MODE", float64 [1 + steps, 4].
  TensorMap state() const;
  void load_state(const TensorMap& state, at::Device device);

 private:
  struct Sums {
    std::string mode;
    std::vector<std::string> names;  // of the steps, from the latest batch
    at::Tensor values;  // rows: the total, then each step; columns: loss, accuracy, overlap, count
  };
  std::vector<Sums> drafts_;
};

}  // namespace outrider
