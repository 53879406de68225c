#include "draft.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "outrider/ops/streaming_cross_entropy.h"

namespace @name@_plugin {

Draft::Draft(const outrider::BaseInfo& base, const Config& config) : decay_(config.decay) {
  const auto options = at::TensorOptions().dtype(base.dtype).device(base.device);
  for (int64_t i = 0; i < config.num_heads; ++i) {
    // Registered names are the names of the tensors in checkpoints.
    heads_.push_back(register_module(
        std::to_string(i), outrider::nn::initialized_linear(base.hidden_size, base.hidden_size,
                                                            /*with_bias=*/true, options)));
  }
}

outrider::HiddenStateRequest Draft::hidden_states_needed() const {
  return {.layer_outputs = {}, .last_hidden = true, .input_embeddings = false};
}

outrider::DraftLoss Draft::loss(const outrider::BaseOutputs& base,
                                const outrider::TrainBatch& batch) {
  // The token at each position, and whether it is a training target: ids and mask [B,S].
  const auto targets = outrider::token_targets(batch);
  const int64_t length = targets.ids.size(1);
  outrider::DraftLoss result{at::zeros({}, base.last_hidden.options().dtype(at::kFloat)), {}};
  double weight = 1;
  for (size_t i = 0; i < heads_.size(); ++i, weight *= decay_) {
    const int64_t ahead = static_cast<int64_t>(i) + 2, rows = std::max<int64_t>(0, length - ahead);
    const auto hidden = base.last_hidden.slice(1, 0, rows).flatten(0, 1);
    const auto labels = targets.ids.slice(1, length - rows).flatten();
    const auto mask = targets.mask.slice(1, length - rows).flatten();
    const auto count = mask.sum();
    const auto row_weights = (mask / count.clamp_min(1.0)).unsqueeze(0);
    const auto students = (hidden + heads_[i]->forward(hidden)).unsqueeze(0);
    // The head is fused into the loss: logits of all tokens never exist at once.
    const auto loss =
        outrider::ops::streaming_cross_entropy(students, base.head->weight(), labels, row_weights);
    result.total = result.total + weight * loss.total;
    result.steps.push_back({"head_" + std::to_string(i), loss.total.detach(),
                            (loss.rows.correct * row_weights).sum(),
                            (loss.rows.overlap * row_weights).sum(), count});
  }
  return result;
}

}  // namespace @name@_plugin
