#include "medusa_draft.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "kernels/residual_block.h"
#include "medusa_drafter.h"
#include "outrider/error.h"
#include "outrider/loss/step_logits.h"
#include "outrider/loss/step_metrics.h"
#include "outrider/loss/trained_rows.h"
#include "outrider/ops/streaming_cross_entropy.h"
#include "outrider/problems.h"
#include "outrider/text.h"

namespace outrider::medusa {
namespace {

// A residual block starts as x + silu(b), as the reference's does: weight 0, bias left at its
// default.
std::shared_ptr<nn::Linear> initialized_block(int64_t size, at::TensorOptions options) {
  auto block = nn::initialized_linear(size, size, /*with_bias=*/true, options);
  const at::NoGradGuard no_grad;
  block->weight.zero_();
  return block;
}

}  // namespace

MedusaHead::MedusaHead(const BaseInfo& base, int64_t num_layers) {
  const auto options = at::TensorOptions().dtype(base.dtype).device(base.device);
  for (int64_t j = 0; j < num_layers; ++j) {
    auto holder = register_module(std::to_string(j), std::make_shared<torch::nn::Module>());
    blocks_.push_back(
        holder->register_module("linear", initialized_block(base.hidden_size, options)));
  }
  projection_ = register_module(
      std::to_string(num_layers),
      nn::initialized_linear(base.hidden_size, base.vocab_size, /*with_bias=*/false, options));
}

at::Tensor MedusaHead::forward(const at::Tensor& rows) const {
  auto hidden = rows;
  for (const auto& block : blocks_) hidden = residual_block(hidden, block->weight, block->bias);
  return hidden;
}

MedusaDraft::MedusaDraft(const BaseInfo& base, const MedusaConfig& config)
    : config_(config), trains_padding_(!base.reference_numerics.empty()) {
  for (int64_t i = 0; i < config.medusa_num_heads; ++i) {
    heads_.push_back(register_module(std::to_string(i),
                                     std::make_shared<MedusaHead>(base, config.medusa_num_layers)));
  }
}

MedusaConfig MedusaDraft::resolve(const BaseInfo&, MedusaConfig config) {
  constexpr int64_t kMost = 64;
  Problems problems;
  for (const auto& [name, value] : {std::pair("medusa_num_heads", config.medusa_num_heads),
                                    std::pair("medusa_num_layers", config.medusa_num_layers)}) {
    problems.add_when(value < 0 || value > kMost,
                      fmt::format("/{}: got {}, expected 0 to {}", name, value, kMost));
  }
  problems.throw_in_lines(ErrorCode::kInvalidConfig,
                          "mode 'medusa' cannot convert with this config");
  return config;
}

HiddenStateRequest MedusaDraft::hidden_states_needed() const {
  return {.layer_outputs = {},
          .last_hidden = true,
          .last_hidden_prenorm = false,
          .input_embeddings = false};
}

std::optional<SequenceNeeds> MedusaDraft::sequence_needs() const {
  return SequenceNeeds{.positions_ahead = config_.medusa_num_heads + 1};
}

std::unique_ptr<Drafter> MedusaDraft::make_drafter() {
  return std::make_unique<MedusaDrafter>(heads_);
}

DraftLoss MedusaDraft::loss(const BaseOutputs& base, const TrainBatch& batch) {
  const auto rule = trains_padding_ ? loss::RowRule::kAny : loss::RowRule::kToken;
  const auto hidden = base.last_hidden.flatten(0, 1);
  DraftLoss result{at::zeros({}, hidden.options().dtype(at::kFloat)), {}};
  for (size_t i = 0; i < heads_.size(); ++i) {
    const auto targets = loss::shifted_targets(batch, static_cast<int64_t>(i) + 2, rule);
    const auto rows = heads_[i]->forward(hidden.index_select(0, targets.rows.index()));
    const auto& weight = targets.rows.weight;
    const auto total = batch.total_count(weight.sum());
    const auto head_loss =
        ops::streaming_cross_entropy(rows.unsqueeze(0), heads_[i]->projection(), targets.labels,
                                     loss::mean_weights(weight, total));
    const double scale = config_.medusa_heads_coefficient *
                         std::pow(config_.medusa_decay_coefficient, static_cast<double>(i));
    loss::add_step(result, fmt::format("head_{}", i), head_loss, weight, scale, total);
    if (batch.recorder) {
      const auto logits = at::linear(heads_[i]->forward(base.last_hidden), heads_[i]->projection());
      batch.recorder(fmt::format("medusa_logits.{}", i), logits);
      batch.recorder(loss::step_logits_name(static_cast<int64_t>(i)), logits);
    }
  }
  return result;
}

}  // namespace outrider::medusa
