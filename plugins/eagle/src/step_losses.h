#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "eagle_draft.h"

namespace outrider::eagle {

/// Which positions are trained on, by the numerics' rule for the masks. On the CPU only those are
/// kept; on a device all are, with weight 0 or 1, because counting them would synchronise.
TrainedRows trained_rows(const TrainBatch& batch, const Numerics& numerics);

/// Per step and row [T,N]: the row's weight, 0 for rows that start after the step's first position.
at::Tensor step_weights(const TrainedRows& rows, int64_t steps);

/// The rows of each step's output [B,S-1-k,h], stacked [T,N,h]; rows that a step has not are its first.
at::Tensor gather_rows(const std::vector<at::Tensor>& steps, const TrainedRows& rows);

/// Losses and metrics of all steps from the sums over their rows.
std::vector<StepMetrics> step_metrics(const at::Tensor& loss, const at::Tensor& correct,
                                      const at::Tensor& overlap, const at::Tensor& weights);

}  // namespace outrider::eagle
