#include "hydra_draft.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "gather_concat.h"
#include "hydra_drafter.h"
#include "outrider/loss/step_logits.h"
#include "outrider/loss/step_metrics.h"
#include "outrider/loss/teacher.h"

namespace hydra {
namespace {

namespace loss = outrider::loss;
namespace ops = outrider::ops;
using outrider::nn::initialized_linear;

std::shared_ptr<torch::nn::Module> add_folder(torch::nn::Module& parent, const std::string& name) {
  return parent.register_module(name, std::make_shared<torch::nn::Module>());
}

}  // namespace

ResidualBlock::ResidualBlock(int64_t in, int64_t out, at::TensorOptions options)
    : linear_(register_module("linear", initialized_linear(in, out, /*with_bias=*/true, options))) {
  const at::NoGradGuard no_grad;
  linear_->weight.zero_();
  if (in == out) return;
  residual_ =
      register_module("res_connection", initialized_linear(in, out, /*with_bias=*/true, options));
}

at::Tensor ResidualBlock::forward(const at::Tensor& x) const {
  return (residual_ ? residual_->forward(x) : x) + at::silu(linear_->forward(x));
}

HydraDraft::HydraDraft(const outrider::BaseInfo& base, const HydraConfig& config)
    : config_(config) {
  const auto options = at::TensorOptions().dtype(base.dtype).device(base.device);
  const int64_t h = base.hidden_size;
  const auto mlps = add_folder(*this, "hydra_mlp");
  const auto projections = add_folder(*this, "hydra_lm_head");
  for (int64_t i = 0; i < config.hydra_num_heads; ++i) {
    const auto name = std::to_string(i);
    const auto mlp = add_folder(*mlps, name);
    Head head;
    for (int64_t j = 0; j < config.hydra_num_layers; ++j) {
      auto block = std::make_shared<ResidualBlock>(j == 0 ? (i + 2) * h : h, h, options);
      head.blocks.push_back(mlp->register_module(std::to_string(j), std::move(block)));
    }
    head.projection = projections->register_module(
        name, initialized_linear(h, base.vocab_size, /*with_bias=*/true, options));
    heads_.push_back(std::move(head));
  }
}

outrider::HiddenStateRequest HydraDraft::hidden_states_needed() const {
  return {.layer_outputs = {},
          .last_hidden = true,
          .last_hidden_prenorm = false,
          .input_embeddings = true};
}

void HydraDraft::initialize(const outrider::BaseView& base) {
  const at::NoGradGuard no_grad;
  for (auto& head : heads_) head.projection->weight.copy_(base.head().weight());
}

// [N,h], what the head's projection reads.
at::Tensor HydraDraft::head_states(size_t head, const outrider::BaseOutputs& base,
                                   const at::Tensor& rows) const {
  auto x = gather_concat(base.last_hidden.flatten(0, 1), base.input_embeddings.flatten(0, 1), rows,
                         static_cast<int64_t>(head) + 1);
  for (const auto& block : heads_[head].blocks) x = block->forward(x);
  return x;
}

at::Tensor HydraDraft::head_logits(size_t head, at::Tensor x) const {
  for (const auto& block : heads_[head].blocks) x = block->forward(x);
  return heads_[head].projection->forward(x);
}

std::unique_ptr<outrider::Drafter> HydraDraft::make_drafter() {
  return std::make_unique<HydraDrafter>(*this);
}

ops::StreamingLoss HydraDraft::head_loss(size_t head, const outrider::BaseOutputs& base,
                                         const loss::ShiftedTargets& targets,
                                         const at::Tensor& total) const {
  const auto states = head_states(head, base, targets.rows.index()).unsqueeze(0);
  const auto& projection = *heads_[head].projection;
  const auto weights = loss::mean_weights(targets.rows.weight, total);
  if (config_.hydra_loss == "teacher") {
    // The base predicts the target from the state before it.
    const auto teacher =
        loss::Teacher(base).targets(targets.rows.index(static_cast<int64_t>(head) + 1));
    return ops::streaming_cross_entropy(states, projection.weight, teacher, weights,
                                        projection.bias);
  }
  return ops::streaming_cross_entropy(states, projection.weight, targets.labels, weights,
                                      projection.bias);
}

outrider::DraftLoss HydraDraft::loss(const outrider::BaseOutputs& base,
                                     const outrider::TrainBatch& batch) {
  outrider::DraftLoss result{at::zeros({}, base.last_hidden.options().dtype(at::kFloat)), {}};
  for (size_t i = 0; i < heads_.size(); ++i) {
    const auto targets = loss::shifted_targets(batch, static_cast<int64_t>(i) + 2);
    const auto total = batch.total_count(targets.rows.weight.sum());
    const double scale = config_.hydra_heads_coefficient *
                         std::pow(config_.hydra_decay_coefficient, static_cast<double>(i));
    loss::add_step(result, fmt::format("head_{}", i), head_loss(i, base, targets, total),
                   targets.rows.weight, scale, total);
    if (batch.recorder) record_logits(i, base, batch.recorder);
  }
  return result;
}

// At every position whose tokens exist: [B, S-1-i, V].
void HydraDraft::record_logits(size_t head, const outrider::BaseOutputs& base,
                               const outrider::TensorRecorder& recorder) const {
  const int64_t batch = base.last_hidden.size(0), length = base.last_hidden.size(1);
  const int64_t kept = std::max<int64_t>(0, length - 1 - static_cast<int64_t>(head));
  const auto index = at::arange(batch * length, base.last_hidden.options().dtype(at::kLong));
  const auto rows = index.view({batch, length}).slice(1, 0, kept);
  const auto states = head_states(head, base, rows.flatten());
  const auto logits = heads_[head].projection->forward(states).view({batch, kept, -1});
  recorder(fmt::format("hydra_logits.{}", head), logits);
  recorder(loss::step_logits_name(static_cast<int64_t>(head)), logits);
}

}  // namespace hydra
