#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/draft.h"
#include "outrider/ops/streaming_cross_entropy.h"

namespace outrider::loss {

/// Weights that make a loss's sum over rows the mean over those of weight 1: weight / Σ weight, or
/// zeros where nothing is trained. weight [N], 0 or 1 → [1,N], as a loss of one step takes them.
/// total: TrainBatch::total_count(Σ weight), which is divided by where it is given.
OUTRIDER_API at::Tensor mean_weights(const at::Tensor& weight, const at::Tensor& total = {});

/// One step's loss, computed with mean_weights(weight, total), joins a draft's: its total times
/// `scale`,
/// and its metrics under `name`.
OUTRIDER_API void add_step(DraftLoss& sum, std::string name, const ops::StreamingLoss& loss,
                           const at::Tensor& weight, double scale, const at::Tensor& total = {});

/// Metrics of T steps over the rows of weight 1: weights [T,N]; names, one per step. Accuracies and
/// overlaps of a step without rows are 0. loss_counts [T]: what sums of losses are divided by, the
/// number of rows where it is undefined. totals [T]: TrainBatch::total_count of the numbers of
/// rows, which means are divided by where it is given.
OUTRIDER_API std::vector<StepMetrics> step_metrics(const std::vector<std::string>& names,
                                                   const ops::RowMetrics& rows,
                                                   const at::Tensor& weights,
                                                   const at::Tensor& loss_counts = {},
                                                   const at::Tensor& totals = {});

}  // namespace outrider::loss
