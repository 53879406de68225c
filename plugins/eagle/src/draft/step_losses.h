#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "config/numerics.h"
#include "outrider/loss/trained_rows.h"
#include "outrider/model/draft.h"
#include "outrider/ops/streaming_cross_entropy.h"

namespace outrider::eagle {

using loss::TrainedRows;

/// Which positions are trained on, by the numerics' rule for the masks. A row is a position q: it
/// reads the base's state at q and the token at q+1, and predicts the token at q+2, for which the
/// base's own prediction at q+1 is the target. Parallel head i predicts the token i places further.
TrainedRows trained_rows(const TrainBatch& batch, const Numerics& numerics, int64_t head = 0);

/// The tokens that the rows predict, [N] int64; any token where the weight is 0.
at::Tensor predicted_tokens(const TrainBatch& batch, const TrainedRows& rows, int64_t head);

/// Per step and row [T,N]: the row's weight, 0 for rows whose chain of steps would have begun
/// before their document, or began after the positions that count here.
at::Tensor step_weights(const TrainBatch& batch, const TrainedRows& rows, int64_t steps);

/// Where the rows are in each step's output [B,S-1-k,h] taken as a matrix, [T,N] int64; -1 for rows
/// before the step's first position.
at::Tensor step_index(const std::vector<at::Tensor>& steps, const TrainedRows& rows);

/// Those rows, stacked [T,N,h]; rows that a step has not are its first.
at::Tensor gather_rows(const std::vector<at::Tensor>& steps, const at::Tensor& index);

/// Losses and metrics of all steps, weights [T,N]; totals [T]: the whole batch's sums of them.
std::vector<StepMetrics> head_metrics(const ops::RowMetrics& rows, const at::Tensor& weights,
                                      const at::Tensor& totals, int64_t head = 0);

/// Steps `first` to `end` that a batch is too short for: every batch has the same list of them.
void add_absent_steps(DraftLoss& result, int64_t head, int64_t first, int64_t end);

}  // namespace outrider::eagle
