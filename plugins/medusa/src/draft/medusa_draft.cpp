#include "medusa_draft.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "kernels/residual_block.h"
#include "outrider/error.h"
#include "outrider/ops/streaming_cross_entropy.h"
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

// [B,S] float32, 1 where a row of the base's state belongs to a token.
at::Tensor token_rows(const TrainBatch& batch) {
  return batch.attention_mask.defined() ? batch.attention_mask.ne(0).to(at::kFloat)
                                        : at::ones_like(batch.input_ids, at::kFloat);
}

// What one head is trained on: rows of the base's state and the tokens `offset` positions later.
struct HeadTargets {
  at::Tensor rows, labels, mask;  // index [N] into [B·S], [N] int64, [N] float32
};

HeadTargets head_targets(const TokenTargets& targets, const at::Tensor& rows, int64_t offset) {
  const int64_t length = targets.ids.size(1), kept = std::max<int64_t>(0, length - offset);
  const auto index = at::arange(targets.ids.numel(), targets.ids.options()).view_as(targets.ids);
  const HeadTargets all{index.slice(1, 0, kept).flatten(),
                        targets.ids.slice(1, length - kept).flatten(),
                        (targets.mask.slice(1, length - kept) * rows.slice(1, 0, kept)).flatten()};
  if (!all.mask.is_cpu()) return all;  // counting the trained rows would synchronise
  const auto trained = all.mask.nonzero().flatten();
  return {all.rows.index_select(0, trained), all.labels.index_select(0, trained),
          all.mask.index_select(0, trained)};
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
  std::vector<std::string> problems;
  for (const auto& [name, value] : {std::pair("medusa_num_heads", config.medusa_num_heads),
                                    std::pair("medusa_num_layers", config.medusa_num_layers)}) {
    if (value >= 0 && value <= kMost) continue;
    problems.push_back(fmt::format("/{}: got {}, expected 0 to {}", name, value, kMost));
  }
  if (problems.empty()) return config;
  throw Error(ErrorCode::kInvalidConfig,
              "mode 'medusa' cannot convert with this config:" + indented(problems));
}

HiddenStateRequest MedusaDraft::hidden_states_needed() const {
  return {.layer_outputs = {},
          .last_hidden = true,
          .last_hidden_prenorm = false,
          .input_embeddings = false};
}

DraftLoss MedusaDraft::loss(const BaseOutputs& base, const TrainBatch& batch) {
  const auto targets = token_targets(batch);
  const auto token = trains_padding_ ? at::ones_like(targets.mask) : token_rows(batch);
  const auto hidden = base.last_hidden.flatten(0, 1);
  DraftLoss result{at::zeros({}, hidden.options().dtype(at::kFloat)), {}};
  for (size_t i = 0; i < heads_.size(); ++i) {
    const auto head = head_targets(targets, token, static_cast<int64_t>(i) + 2);
    const auto count = head.mask.sum();
    const auto rows = heads_[i]->forward(hidden.index_select(0, head.rows));
    const auto weights = (head.mask / count.clamp_min(1.0)).unsqueeze(0);
    const auto loss = ops::streaming_cross_entropy(rows.unsqueeze(0), heads_[i]->projection(),
                                                   head.labels, weights);
    const double scale = config_.medusa_heads_coefficient *
                         std::pow(config_.medusa_decay_coefficient, static_cast<double>(i));
    result.total = result.total + loss.total * scale;
    const auto mean = [&](const at::Tensor& values) { return (values * weights).sum(); };
    result.steps.push_back({fmt::format("head_{}", i), loss.total.detach(), mean(loss.rows.correct),
                            mean(loss.rows.overlap), count});
    if (batch.recorder) {
      batch.recorder(fmt::format("medusa_logits.{}", i),
                     at::linear(heads_[i]->forward(base.last_hidden), heads_[i]->projection()));
    }
  }
  return result;
}

}  // namespace outrider::medusa
