#include "outrider/model/train_batch.h"

#include <ATen/ATen.h>

namespace outrider {
namespace {

constexpr int64_t kIgnoredLabel = -100;

// labels[t] names the token after t: moved to the position of the token itself.
at::Tensor labels_by_token(const at::Tensor& labels) {
  const auto first = at::full({labels.size(0), 1}, kIgnoredLabel, labels.options());
  return at::cat({first, labels.slice(1, 0, -1)}, 1);
}

}  // namespace

TokenTargets token_targets(const TrainBatch& batch) {
  const auto& ids = batch.input_ids;
  auto mask =
      batch.attention_mask.defined() ? batch.attention_mask.ne(0) : at::ones_like(ids, at::kBool);
  if (batch.loss_mask.defined()) mask = at::logical_and(mask, batch.loss_mask.ne(0));
  if (!batch.labels.defined()) return {ids, mask.to(at::kFloat)};
  const auto labels = labels_by_token(batch.labels);
  const auto labelled = labels.ne(kIgnoredLabel);
  if (!batch.loss_mask.defined()) mask = at::logical_and(mask, labelled);
  return {at::where(labelled, labels, ids), mask.to(at::kFloat)};
}

}  // namespace outrider
