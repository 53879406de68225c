#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "config/numerics.h"
#include "outrider/model/draft.h"

namespace outrider::eagle {

/// The trained rows of a batch. A row is a position q: it reads the base's state at q and the token
/// at q+1, and predicts the token at q+2, for which the base's own prediction at q+1 is the target.
/// Parallel head i predicts the token i places further.
struct TrainedRows {
  at::Tensor sequence, position;  // [N] int64
  at::Tensor weight;              // [N] float32, 0 or 1
};

/// Which positions are trained on, by the numerics' rule for the masks. On the CPU only those are
/// kept; on a device all are, with weight 0 or 1, because counting them would synchronise.
TrainedRows trained_rows(const TrainBatch& batch, const Numerics& numerics, int64_t head = 0);

/// The tokens that the rows predict, [N] int64; any token where the weight is 0.
at::Tensor predicted_tokens(const TrainBatch& batch, const TrainedRows& rows, int64_t head);

/// Per step and row [T,N]: the row's weight, 0 for rows that start after the step's first position.
at::Tensor step_weights(const TrainedRows& rows, int64_t steps);

/// The rows of each step's output [B,S-1-k,h], stacked [T,N,h]; rows that a step has not are its
/// first.
at::Tensor gather_rows(const std::vector<at::Tensor>& steps, const TrainedRows& rows);

/// Losses and metrics of all steps from the sums over their rows.
std::vector<StepMetrics> step_metrics(const at::Tensor& loss, const at::Tensor& correct,
                                      const at::Tensor& overlap, const at::Tensor& weights,
                                      int64_t head = 0);

}  // namespace outrider::eagle
