#include "trainer/draft_meter.h"

#include <ATen/ATen.h>

#include <utility>

namespace outrider {
namespace {

/// [1 + steps, 4]: means times counts, and the counts. A step without positions adds nothing, even
/// if its mean is not a number.
at::Tensor weighted(const DraftLoss& loss) {
  const auto zero = at::zeros({}, loss.total.options().requires_grad(false));
  const auto count = loss.steps.empty() ? at::ones_like(zero) : loss.steps.front().count;
  std::vector<at::Tensor> cells = {loss.total.detach(), zero, zero, count};
  for (const auto& step : loss.steps) {
    cells.insert(cells.end(), {step.loss.detach(), step.accuracy, step.overlap, step.count});
  }
  for (auto& cell : cells) cell = cell.to(at::kDouble);
  const auto rows = at::stack(cells).reshape({-1, 4});
  const auto counts = rows.slice(1, 3, 4);
  const auto sums = rows.slice(1, 0, 3) * counts;
  return at::cat({at::where(counts > 0, sums, at::zeros_like(sums)), counts}, 1);
}

double mean(const at::TensorAccessor<double, 1>& row, int64_t column) {
  return row[3] > 0 ? row[column] / row[3] : 0.0;
}

}  // namespace

DraftMeter::DraftMeter(std::vector<std::string> modes) {
  for (auto& mode : modes) drafts_.push_back({std::move(mode), {}, {}});
}

void DraftMeter::add(const std::vector<DraftLoss>& losses) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < drafts_.size(); ++i) {
    auto& draft = drafts_[i];
    const auto values = weighted(losses.at(i));
    draft.values = draft.values.defined() ? draft.values + values : values;
    draft.names.clear();
    for (const auto& step : losses[i].steps) draft.names.push_back(step.name);
  }
}

std::vector<DraftResult> DraftMeter::report() const {
  std::vector<DraftResult> results;
  for (const auto& draft : drafts_) {
    if (draft.values.defined()) results.push_back(result_of(draft));
  }
  return results;
}

DraftResult DraftMeter::result_of(const Sums& draft) {
  const auto values = draft.values.cpu();
  const auto rows = values.accessor<double, 2>();
  DraftResult result{draft.mode, mean(rows[0], 0), {}, 0, 0};
  std::vector<double> accuracies, overlaps;
  for (size_t i = 0; i < draft.names.size(); ++i) {
    const auto row = rows[static_cast<int64_t>(i) + 1];
    accuracies.push_back(mean(row, 1));
    overlaps.push_back(mean(row, 2));
    result.steps.push_back({draft.names[i], mean(row, 0), accuracies.back(), overlaps.back(),
                            static_cast<int64_t>(row[3])});
  }
  result.expected_acceptance_length = expected_acceptance_length(accuracies);
  result.expected_acceptance_length_sampling = expected_acceptance_length(overlaps);
  return result;
}

void DraftMeter::reset() {
  for (auto& draft : drafts_) draft.values.reset();
}

TensorMap DraftMeter::state() const {
  TensorMap state;
  for (const auto& draft : drafts_) {
    if (draft.values.defined()) state["metrics." + draft.mode] = draft.values;
  }
  return state;
}

void DraftMeter::load_state(const TensorMap& state, at::Device device) {
  for (auto& draft : drafts_) {
    const auto found = state.find("metrics." + draft.mode);
    if (found != state.end()) draft.values = found->second.to(device, /*non_blocking=*/false);
  }
}

}  // namespace outrider
