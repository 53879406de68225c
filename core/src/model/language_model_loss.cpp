#include "outrider/model/language_model_loss.h"

#include <ATen/ATen.h>

#include "outrider/ops/streaming_cross_entropy.h"

namespace outrider {

at::Tensor language_model_loss(const BaseOutputs& base, const TrainBatch& batch,
                               bool labels_stand_alone) {
  auto seen = batch;
  if (batch.labels.defined() && labels_stand_alone) {
    seen.attention_mask = seen.loss_mask = at::Tensor();
  }
  const auto targets = token_targets(seen);
  const auto rows = base.last_hidden.slice(1, 0, -1).flatten(0, 1).unsqueeze(0);
  const auto labels = targets.ids.slice(1, 1).flatten();
  const auto mask = targets.mask.slice(1, 1).reshape({1, -1});
  const auto weights = mask / batch.total_count(mask.sum()).clamp_min(1.0);
  return ops::streaming_cross_entropy(rows, base.head->weight(), labels, weights).total;
}

}  // namespace outrider
