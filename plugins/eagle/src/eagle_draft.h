#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "eagle_layer.h"
#include "eagle_schema.h"
#include "numerics.h"
#include "outrider/model/base_info.h"
#include "outrider/model/draft.h"
#include "outrider/nn/linear.h"
#include "outrider/nn/rms_norm.h"
#include "outrider/nn/rotary_embedding.h"
#include "outrider/ops/streaming_cross_entropy.h"

namespace outrider::eagle {

struct DraftSettings {
  Architecture architecture;
  std::vector<int64_t> aux_layer_ids;  // ascending
  int64_t ttt_steps = 3;
  double loss_decay_factor = 0.9;
  Numerics numerics;
};

/// The trained rows of a batch. A row is a position q: it reads the base's state at q and the token
/// at q+1, and predicts the token at q+2, for which the base's own prediction at q+1 is the target.
struct TrainedRows {
  at::Tensor sequence, position;  // [N] int64
  at::Tensor weight;              // [N] float32, 0 or 1
};

/// EAGLE-3 (arXiv 2503.01840) with training-time test, under ModelOpt's parameter names.
class EagleDraft : public Draft {
 public:
  EagleDraft(const BaseInfo& base, DraftSettings settings);

  HiddenStateRequest hidden_states_needed() const override;
  DraftLoss loss(const BaseOutputs& base, const TrainBatch& batch) override;
  void initialize(const CausalLM& base) override;

  /// Writes the draft vocabulary: base token ids [Vd], increasing.
  void set_draft_vocabulary(const at::Tensor& token_ids);
  const DraftSettings& settings() const { return settings_; }

 private:
  bool has_reduced_vocabulary() const { return d2t_.defined(); }
  at::Tensor target_ids() const;
  void check_draft_vocabulary();
  const at::Tensor& head_weight(const BaseOutputs& base) const;
  std::vector<at::Tensor> run_steps(const BaseOutputs& base, const TrainBatch& batch) const;
  StepContext step_context(const BaseOutputs& base, const TrainBatch& batch,
                           const nn::CosSin& rotary, int64_t step) const;
  at::Tensor teacher_weight(const BaseOutputs& base) const;
  ops::TeacherTargets teacher_targets(const BaseOutputs& base, const TrainBatch& batch,
                                      const TrainedRows& rows, const at::Tensor& weight) const;
  at::Tensor measure_whole_vocabulary(const BaseOutputs& base, ops::TeacherTargets& teacher) const;
  at::Tensor finish(const at::Tensor& hidden) const;
  void record(const TensorRecorder& recorder, const BaseOutputs& base,
              const std::vector<at::Tensor>& steps) const;

  DraftSettings settings_;
  nn::RotaryEmbedding rotary_;
  std::shared_ptr<nn::Linear> fc_, lm_head_;  // lm_head_: null when the base's is used
  std::shared_ptr<nn::RmsNorm> norm_;
  std::vector<std::shared_ptr<EagleLayer>> layers_;
  at::Tensor d2t_;  // [Vd] int64, target id minus draft id; undefined for the whole vocabulary
  bool draft_vocabulary_checked_ = false;
};

}  // namespace outrider::eagle
