#include "eagle_draft.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "outrider/error.h"
#include "outrider/model/causal_lm.h"
#include "step_losses.h"
#include "warm_start.h"

namespace outrider::eagle {
namespace {

RopeConfig rope_config(const Architecture& a) {
  return RopeConfig::from_json({{"rope_scaling", a.rope_scaling},
                                {"rope_theta", a.rope_theta},
                                {"max_position_embeddings", a.max_position_embeddings}},
                               "eagle_architecture_config");
}

std::vector<at::Tensor> aux_hidden(const BaseOutputs& base, const std::vector<int64_t>& layers) {
  std::vector<at::Tensor> hidden;
  for (const int64_t layer : layers) hidden.push_back(base.layer_outputs.at(layer).detach());
  return hidden;
}

nn::CosSin slice_tables(const nn::CosSin& tables, int64_t begin, int64_t end) {
  return {tables.cos.slice(2, begin, end), tables.sin.slice(2, begin, end)};
}

}  // namespace

EagleDraft::EagleDraft(const BaseInfo& base, DraftSettings settings)
    : settings_(std::move(settings)),
      rotary_(rope_config(settings_.architecture), settings_.architecture.head_dim) {
  const auto& a = settings_.architecture;
  const auto options = at::TensorOptions().dtype(base.dtype).device(base.device);
  const int64_t h = a.hidden_size;
  auto list = std::make_shared<torch::nn::Module>();
  for (int64_t i = 0; i < a.num_hidden_layers; ++i) {
    layers_.push_back(list->register_module(
        std::to_string(i),
        std::make_shared<EagleLayer>(a, /*reads_embeddings=*/i == 0,
                                     settings_.numerics.norms_hidden_twice, options)));
  }
  register_module("layers", list);
  if (a.use_last_layernorm) {
    norm_ = register_module("norm", std::make_shared<nn::RmsNorm>(h, a.rms_norm_eps, options));
  }
  if (a.draft_vocab_size != a.vocab_size || a.has_lm_head) {
    lm_head_ = register_module("lm_head",
                               nn::initialized_linear(h, a.draft_vocab_size, false, options));
  }
  const auto inputs = static_cast<int64_t>(settings_.aux_layer_ids.size());
  fc_ = register_module("fc", nn::initialized_linear(inputs * h, h, false, options));
  if (a.draft_vocab_size != a.vocab_size) {
    d2t_ = register_buffer("d2t", at::zeros({a.draft_vocab_size}, options.dtype(at::kLong)));
  }
}

HiddenStateRequest EagleDraft::hidden_states_needed() const {
  return {.layer_outputs = settings_.aux_layer_ids};
}

void EagleDraft::set_draft_vocabulary(const at::Tensor& token_ids) {
  d2t_.copy_(token_ids.to(d2t_.device()) - at::arange(d2t_.size(0), d2t_.options()));
}

at::Tensor EagleDraft::target_ids() const {
  return d2t_ + at::arange(d2t_.size(0), d2t_.options());
}

// The reference starts from random values. A draft that shares the base's coordinates learns the same
// in a fraction of the steps: see warm_start.h.
void EagleDraft::initialize(const CausalLM& base) {
  if (settings_.numerics.starts_at_random) return;
  const at::NoGradGuard no_grad;
  if (lm_head_ && !has_reduced_vocabulary()) lm_head_->weight.copy_(base.head().weight());
  if (lm_head_ && has_reduced_vocabulary() && d2t_.ne(0).any().item<bool>()) {
    lm_head_->weight.copy_(base.head().weight(target_ids()));
  }
  warm_start(*this, base);
}

const at::Tensor& EagleDraft::head_weight(const BaseOutputs& base) const {
  return lm_head_ ? lm_head_->weight : base.head.weight();
}

at::Tensor EagleDraft::finish(const at::Tensor& hidden) const {
  return norm_ ? norm_->forward(hidden) : hidden;
}

StepContext EagleDraft::step_context(const BaseOutputs& base, const TrainBatch& batch,
                                     const nn::CosSin& rotary, int64_t step) const {
  const int64_t end = batch.input_ids.size(1) - 1, size = end - step;
  StepContext context{base.input_embeddings.detach().slice(1, step + 1),
                      slice_tables(rotary, step, end),
                      {},
                      {}};
  if (!batch.key_mask.defined() || (step > 0 && !settings_.numerics.masks_padding_keys)) {
    return context;
  }
  // A key belongs to the token after its position, whose embedding it was made of.
  const auto token_mask = batch.key_mask.slice(1, 1);
  context.key_mask = token_mask.slice(1, 0, size);
  for (int64_t i = 1; i <= step; ++i) {
    context.diagonal_masks.push_back(token_mask.slice(1, i, i + size));
  }
  return context;
}

// Step k's rows are the positions k … S-2. Its input is the step before's output, one position to
// the right: without the first step's position 0 and the last row of each step, nothing wraps.
std::vector<at::Tensor> EagleDraft::run_steps(const BaseOutputs& base,
                                              const TrainBatch& batch) const {
  const int64_t length = batch.input_ids.size(1);
  const auto positions = batch.position_ids.defined()
                             ? batch.position_ids
                             : at::arange(length, batch.input_ids.options()).unsqueeze(0);
  auto hidden = fc_->forward(at::cat(aux_hidden(base, settings_.aux_layer_ids), -1))
                    .slice(1, 0, length - 1);
  const auto rotary = rotary_.tables(positions, hidden.scalar_type());
  const int64_t wanted = is_training() ? settings_.ttt_steps : 1;
  std::vector<StepCache> caches(layers_.size());
  std::vector<at::Tensor> outputs;
  for (int64_t step = 0; step < std::min(wanted, length - 1); ++step) {
    const auto context = step_context(base, batch, rotary, step);
    for (size_t i = 0; i < layers_.size(); ++i) {
      hidden = layers_[i]->forward(hidden, context, caches[i]);
    }
    outputs.push_back(hidden);
    hidden = hidden.slice(1, 0, -1);
  }
  return outputs;
}

void EagleDraft::record(const TensorRecorder& recorder, const BaseOutputs& base,
                        const std::vector<at::Tensor>& steps) const {
  const int64_t length = base.last_hidden.size(1);
  recorder("base.aux_hidden", at::cat(aux_hidden(base, settings_.aux_layer_ids), -1));
  for (size_t k = 0; k < steps.size(); ++k) {
    const auto first = static_cast<int64_t>(k);
    const auto logits = at::linear(finish(steps[k]), head_weight(base));
    recorder(fmt::format("logits.step_{}", k),
             at::constant_pad_nd(logits, {0, 0, first, length - first - logits.size(1)}));
  }
}

// All zeros means that nobody chose a vocabulary: training would then silently use the first ids.
void EagleDraft::check_draft_vocabulary() {
  if (!has_reduced_vocabulary() || draft_vocabulary_checked_) return;
  if (!d2t_.ne(0).any().item<bool>()) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("eagle: the draft vocabulary of {} tokens was never chosen (d2t is zero)",
                            d2t_.size(0)),
                "make one with `outrider data calibrate` and convert with --draft-vocab FILE");
  }
  draft_vocabulary_checked_ = true;
}

ops::TeacherTargets EagleDraft::teacher_targets(const BaseOutputs& base, const TrainBatch& batch,
                                                const TrainedRows& rows,
                                                const at::Tensor& weight) const {
  const auto index = rows.sequence * batch.input_ids.size(1) + rows.position + 1;
  return {base.last_hidden.detach().flatten(0, 1).index_select(0, index),
          [weight](const at::Tensor& r) { return at::linear(r, weight); },
          {}};
}

// What a restricted draft can hit of the base's own choices: 1 where the base's argmax is among its
// tokens. The overlap is measured against the base's whole distribution alike.
at::Tensor EagleDraft::measure_whole_vocabulary(const BaseOutputs& base,
                                                ops::TeacherTargets& teacher) const {
  const auto whole = ops::streaming_logit_statistics(teacher.rows, base.head.weight().detach());
  teacher.full_log_sum_exp = whole.log_sum_exp;
  return at::isin(whole.argmax, target_ids(), /*assume_unique=*/false);
}

at::Tensor EagleDraft::teacher_weight(const BaseOutputs& base) const {
  return (has_reduced_vocabulary() ? base.head.weight(target_ids()) : base.head.weight()).detach();
}

DraftLoss EagleDraft::loss(const BaseOutputs& base, const TrainBatch& batch) {
  if (batch.input_ids.size(1) < 2) {
    throw Error(ErrorCode::kInvalidData, "eagle: sequences must have at least two tokens");
  }
  check_draft_vocabulary();
  const auto steps = run_steps(base, batch);
  if (batch.recorder) record(batch.recorder, base, steps);
  const auto rows = trained_rows(batch, settings_.numerics);
  const auto weights = step_weights(rows, static_cast<int64_t>(steps.size()));
  const auto decay =
      at::pow(settings_.loss_decay_factor, at::arange(weights.size(0), weights.options()));
  auto teacher = teacher_targets(base, batch, rows, teacher_weight(base));
  at::Tensor reachable;
  if (batch.measure_acceptance && has_reduced_vocabulary()) {
    reachable = measure_whole_vocabulary(base, teacher);
  }
  const auto loss = ops::streaming_cross_entropy(
      finish(gather_rows(steps, rows)), head_weight(base), teacher,
      weights * (decay / (weights.sum(1) + 1e-5)).unsqueeze(1));
  const auto correct = reachable.defined() ? loss.rows.correct * reachable : loss.rows.correct;
  return {loss.total, step_metrics(loss.rows.loss, correct, loss.rows.overlap, weights)};
}

}  // namespace outrider::eagle
