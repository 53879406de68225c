#include "draft.h"

#include <ATen/ATen.h>

#include <string>

#include "outrider/loss/step_metrics.h"
#include "outrider/loss/trained_rows.h"
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
  const auto hidden = base.last_hidden.flatten(0, 1);  // [B·S,h]
  outrider::DraftLoss result{at::zeros({}, hidden.options().dtype(at::kFloat)), {}};
  double scale = 1;
  for (size_t i = 0; i < heads_.size(); ++i, scale *= decay_) {
    // Which rows are trained, and the tokens that they are to predict.
    const auto targets = outrider::loss::shifted_targets(batch, static_cast<int64_t>(i) + 2);
    const auto rows = hidden.index_select(0, targets.rows.index());
    const auto students = (rows + heads_[i]->forward(rows)).unsqueeze(0);
    const auto& weight = targets.rows.weight;
    // Over all processes, where several train together.
    const auto total = batch.total_count(weight.sum());
    // The head is fused into the loss: logits of all tokens never exist at once.
    const auto loss = outrider::ops::streaming_cross_entropy(
        students, base.head->weight(), targets.labels, outrider::loss::mean_weights(weight, total));
    outrider::loss::add_step(result, "head_" + std::to_string(i), loss, weight, scale, total);
  }
  return result;
}

}  // namespace @name@_plugin
