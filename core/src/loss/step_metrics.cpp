#include "outrider/loss/step_metrics.h"

#include <ATen/ATen.h>

#include <utility>

namespace outrider::loss {

at::Tensor mean_weights(const at::Tensor& weight, const at::Tensor& total) {
  const auto count = total.defined() ? total : weight.sum();
  return (weight / count.clamp_min(1.0)).unsqueeze(0);
}

void add_step(DraftLoss& sum, std::string name, const ops::StreamingLoss& loss,
              const at::Tensor& weight, double scale, const at::Tensor& total) {
  const auto weighted = loss.total * scale;
  sum.total = sum.total.defined() ? sum.total + weighted : weighted;
  auto metrics = step_metrics({std::move(name)}, loss.rows, weight.unsqueeze(0), {}, total);
  metrics.front().loss = loss.total.detach();
  sum.steps.push_back(std::move(metrics.front()));
}

std::vector<StepMetrics> step_metrics(const std::vector<std::string>& names,
                                      const ops::RowMetrics& rows, const at::Tensor& weights,
                                      const at::Tensor& loss_counts, const at::Tensor& totals) {
  const auto count = weights.sum(1);
  const auto at_least_one = (totals.defined() ? totals : count).clamp_min(1.0);
  const auto mean = [&](const at::Tensor& values, const at::Tensor& over) {
    return (values * weights).sum(1) / over;
  };
  const auto losses = mean(rows.loss, loss_counts.defined() ? loss_counts : at_least_one);
  const auto accuracies = mean(rows.correct, at_least_one);
  const auto overlaps = mean(rows.overlap, at_least_one);
  std::vector<StepMetrics> metrics;
  for (size_t k = 0; k < names.size(); ++k) {
    const auto step = static_cast<int64_t>(k);
    metrics.push_back({names[k], losses[step], accuracies[step], overlaps[step], count[step]});
  }
  return metrics;
}

}  // namespace outrider::loss
