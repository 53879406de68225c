#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "outrider/checkpoint/tensor_io.h"
#include "outrider/host/draft_results.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// Means of draft losses over batches, weighted by trained positions. Sums stay on the model's
/// device until a report reads them.
class OUTRIDER_API DraftMeter {
 public:
  explicit DraftMeter(std::vector<std::string> modes);

  /// One batch's losses, one per draft; every call must bring the same steps.
  void add(const std::vector<DraftLoss>& losses);

  /// One for each draft, in their order; empty before the first batch.
  std::vector<DraftResult> report() const;
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
  static DraftResult result_of(const Sums& draft);

  std::vector<Sums> drafts_;
};

}  // namespace outrider
