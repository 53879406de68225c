#include "eagle_draft.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "eagle_drafter.h"
#include "layer_fit.h"
#include "outrider/error.h"
#include "outrider/loss/step_logits.h"
#include "outrider/loss/teacher.h"
#include "outrider/ops/few_rows.h"
#include "pull_on_targets.h"
#include "warm_start.h"

namespace outrider::eagle {

EagleDraft::EagleDraft(const BaseInfo& base, DraftSettings settings)
    : settings_(std::move(settings)) {
  const auto& a = settings_.architecture;
  const auto options = at::TensorOptions().dtype(base.dtype).device(base.device);
  const int64_t h = a.draft_hidden_size;
  decoder_ = std::make_unique<DraftDecoder>(*this, settings_, options);
  if (a.use_last_layernorm) {
    norm_ = register_module("norm", std::make_shared<nn::RmsNorm>(h, a.rms_norm_eps, options));
  }
  if (a.draft_vocab_size != a.vocab_size || a.has_lm_head) {
    lm_head_ =
        register_module("lm_head", nn::initialized_linear(h, a.draft_vocab_size, false, options));
  }
  if (a.parallel_draft_step > 1 && settings_.numerics.has_parallel_heads) {
    parallel_heads_ = register_module(
        "parallel_draft_heads", std::make_shared<ParallelHeads>(a.parallel_draft_step - 1,
                                                                a.parallel_draft_heads_num_layers,
                                                                h, a.draft_vocab_size, options));
  }
  if (a.draft_vocab_size != a.vocab_size) {
    d2t_ = register_buffer("d2t", at::zeros({a.draft_vocab_size}, options.dtype(at::kLong)));
  }
}

HiddenStateRequest EagleDraft::hidden_states_needed() const {
  const auto& numerics = settings_.numerics;
  auto request = decoder_->hidden_states_needed();
  request.at_padding = numerics.ignores_attention_mask ||
                       (settings_.mixes_hidden_states && numerics.wraps_last_position);
  return request;
}

// The last row of a process in the last step is ttt_steps - 1 positions beyond its own; the last
// head's token is head_count() + 1 after that. Mixing draws among all positions of a sequence, and
// where ModelOpt's rules for masks end depends on its padding.
std::optional<SequenceNeeds> EagleDraft::sequence_needs() const {
  if (settings_.mixes_hidden_states || settings_.numerics.mask_gates_successor) return std::nullopt;
  return SequenceNeeds{settings_.ttt_steps + head_count(),
                       settings_.architecture.num_attention_heads};
}

// What is mixed, and what wraps, goes from one end of a row to the other.
bool EagleDraft::heeds_documents() const {
  return !settings_.mixes_hidden_states && !settings_.numerics.wraps_last_position;
}

void EagleDraft::set_draft_vocabulary(const at::Tensor& token_ids) {
  d2t_.copy_(token_ids.to(d2t_.device()) - at::arange(d2t_.size(0), d2t_.options()));
}

at::Tensor EagleDraft::target_ids() const {
  if (!has_reduced_vocabulary()) return {};
  return d2t_ + at::arange(d2t_.size(0), d2t_.options());
}

// The reference starts from random values. A draft that shares the base's coordinates learns the
// same in a fraction of the steps: see warm_start.h.
void EagleDraft::initialize(const BaseView& base) {
  if (settings_.numerics.starts_at_random) return;
  const at::NoGradGuard no_grad;
  if (shares_width() && (!has_reduced_vocabulary() || d2t_.ne(0).any().item<bool>())) {
    const auto rows =
        has_reduced_vocabulary() ? base.head().weight(target_ids()) : base.head().weight();
    if (lm_head_) lm_head_->weight.copy_(rows);
    if (parallel_heads_) parallel_heads_->lm_head->weight.copy_(rows);
  }
  warm_start(*this, base);
}

std::unique_ptr<DraftFit> EagleDraft::make_fit(const BaseView& base) {
  const auto& a = settings_.architecture;
  const bool fits = a.use_aux_hidden_state && a.num_hidden_layers == 1 && shares_width() &&
                    !settings_.numerics.starts_at_random;
  return fits ? std::make_unique<LayerFit>(*this, base) : nullptr;
}

int64_t EagleDraft::head_count() const {
  return parallel_heads_ ? settings_.architecture.parallel_draft_step : 1;
}

at::Tensor EagleDraft::head_weight(const BaseOutputs& base, int64_t head) const {
  if (head > 0) return parallel_heads_->lm_head->weight;
  return lm_head_ ? lm_head_->weight : base.head->weight();
}

// What a head's matrix reads, of the decoder's output.
at::Tensor EagleDraft::head_rows(const at::Tensor& hidden, int64_t head) const {
  const auto normed = norm_ ? norm_->forward(hidden) : hidden;
  return head > 0 ? parallel_heads_->forward(head - 1, normed) : normed;
}

at::Tensor EagleDraft::logits(const at::Tensor& hidden, const LmHead& base) const {
  if (lm_head_ && norm_) {
    const auto head = lm_head_->plain_parameters();
    if (head && ops::takes_few_rows(hidden, {*head})) {
      return ops::few_rows_linear(hidden, {norm_->weight, norm_->eps}, *head);
    }
  }
  const auto rows = head_rows(hidden, 0);
  return lm_head_ ? lm_head_->forward(rows) : base.logits(rows);
}

std::unique_ptr<Drafter> EagleDraft::make_drafter() {
  check_draft_vocabulary();
  return std::make_unique<EagleDrafter>(*this);
}

void EagleDraft::record(const TensorRecorder& recorder, const BaseOutputs& base,
                        const std::vector<at::Tensor>& steps) const {
  const int64_t length = base.last_hidden.size(1);
  std::vector<at::Tensor> aux;
  for (const int64_t layer : settings_.aux_layer_ids) aux.push_back(base.layer_outputs.at(layer));
  if (!aux.empty()) recorder("base.aux_hidden", at::cat(aux, -1));
  for (size_t k = 0; k < steps.size(); ++k) {
    const auto first = static_cast<int64_t>(k);
    recorder(fmt::format("draft_prenorm.step_{}", k), at_positions(steps[k], first, length));
    for (int64_t head = 0; head < head_count(); ++head) {
      const auto logits = at::linear(head_rows(steps[k], head), head_weight(base, head));
      if (head == 0) recorder(loss::step_logits_name(first), logits);
      recorder(head == 0 ? fmt::format("logits.step_{}", k)
                         : fmt::format("logits.parallel_{}_step_{}", head, k),
               at_positions(logits, first, length));
    }
  }
}

// All zeros means that nobody chose a vocabulary: training would then silently use the first ids.
void EagleDraft::check_draft_vocabulary() {
  if (!has_reduced_vocabulary() || draft_vocabulary_checked_) return;
  if (!d2t_.ne(0).any().item<bool>()) {
    throw Error(
        ErrorCode::kInvalidData,
        fmt::format("eagle: the draft vocabulary of {} tokens was never chosen (d2t is zero)",
                    d2t_.size(0)),
        "make one with `outrider data calibrate` and convert with --draft-vocab FILE");
  }
  draft_vocabulary_checked_ = true;
}

// The draft's own head reads the steps' outputs where they are. What a parallel head reads of them
// is a matrix product's result, which has to exist for its gradient.
ops::StudentRows EagleDraft::students(const std::vector<at::Tensor>& steps, const at::Tensor& index,
                                      int64_t head) const {
  if (head > 0) return head_rows(gather_rows(steps, index), head);
  ops::StudentRows own(steps, index);
  return norm_ ? std::move(own).normed(norm_->weight, norm_->eps) : own;
}

ops::StreamingLoss EagleDraft::cross_entropy(const BaseOutputs& base, const TrainBatch& batch,
                                             const TrainedRows& rows,
                                             const std::vector<at::Tensor>& steps,
                                             const at::Tensor& row_weights, int64_t head) const {
  const auto rows_of_steps = step_index(steps, rows);
  const auto read = students(steps, rows_of_steps, head);
  const auto weight = head_weight(base, head);
  if (settings_.trains_on_tokens) {
    return ops::streaming_cross_entropy(read, weight, predicted_tokens(batch, rows, head),
                                        row_weights);
  }
  const loss::Teacher teacher(base, target_ids());
  const auto index = rows.index(1 + head);
  auto targets = teacher.targets(index);
  at::Tensor reachable;
  if (batch.measure_acceptance && has_reduced_vocabulary()) {
    reachable = teacher.measure_whole_vocabulary(index, targets);
  }
  auto loss =
      ops::streaming_cross_entropy(read, weight, targets, row_weights, {}, settings_.divergence);
  if (reachable.defined()) loss.rows.correct = loss.rows.correct * reachable;
  if (settings_.numerics.trains_targets && base.carries_gradient) {
    const auto stacked = head_rows(gather_rows(steps, rows_of_steps), head);
    const auto logits = at::linear(stacked, weight).detach();
    loss.total = loss.total + pull_on_targets(base, target_ids(), index, logits, row_weights);
  }
  return loss;
}

void EagleDraft::add_head(DraftLoss& result, const BaseOutputs& base, const TrainBatch& batch,
                          const std::vector<at::Tensor>& steps, int64_t head) const {
  const auto count = static_cast<int64_t>(steps.size());
  const auto rows = trained_rows(batch, settings_.numerics, head);
  const auto weights = step_weights(batch, rows, count);
  const auto totals = batch.total_count(weights.sum(1));
  const auto decay =
      at::pow(settings_.loss_decay_factor, at::arange(head, head + count, weights.options()));
  const auto loss = cross_entropy(base, batch, rows, steps,
                                  weights * (decay / (totals + 1e-5)).unsqueeze(1), head);
  result.total = result.total.defined() ? result.total + loss.total : loss.total;
  for (auto& metrics : head_metrics(loss.rows, weights, totals, head)) {
    if (settings_.numerics.rounds_accuracies) {
      metrics.accuracy = at::round(metrics.accuracy, /*decimals=*/3);
    }
    result.steps.push_back(std::move(metrics));
  }
}

DraftLoss EagleDraft::loss(const BaseOutputs& base, const TrainBatch& batch) {
  const int64_t length = batch.sequence_length();
  if (length < 2) {
    throw Error(ErrorCode::kInvalidData, "eagle: sequences must have at least two tokens");
  }
  check_draft_vocabulary();
  const int64_t wanted = is_training() ? settings_.ttt_steps : 1;
  const auto steps = decoder_->run(base, batch, wanted);
  if (batch.recorder) record(batch.recorder, base, steps);
  DraftLoss result;
  for (int64_t head = 0; head < head_count(); ++head) {
    const bool has_rows = head < length - 1;
    if (has_rows) add_head(result, base, batch, steps, head);
    const auto computed = has_rows ? static_cast<int64_t>(steps.size()) : 0;
    add_absent_steps(result, head, computed, wanted);
  }
  return result;
}

}  // namespace outrider::eagle
