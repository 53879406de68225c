#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "config/draft_settings.h"
#include "draft_decoder.h"
#include "outrider/model/base_info.h"
#include "outrider/model/draft.h"
#include "outrider/nn/linear.h"
#include "outrider/nn/rms_norm.h"
#include "parallel_heads.h"
#include "step_losses.h"

namespace outrider::eagle {

/// EAGLE-1 (arXiv 2401.15077), EAGLE-MTP and EAGLE-3 (arXiv 2503.01840), trained with training-time
/// test, under ModelOpt's parameter names.
class EagleDraft : public Draft {
 public:
  EagleDraft(const BaseInfo& base, DraftSettings settings);

  HiddenStateRequest hidden_states_needed() const override;
  std::optional<SequenceNeeds> sequence_needs() const override;
  bool heeds_documents() const override;
  std::optional<TrainingCost> training_cost(const TrainingShape& shape) const override;
  DraftLoss loss(const BaseOutputs& base, const TrainBatch& batch) override;
  void initialize(const BaseView& base) override;
  std::unique_ptr<DraftFit> make_fit(const BaseView& base) override;
  std::unique_ptr<Drafter> make_drafter() override;

  /// Writes the draft vocabulary: base token ids [Vd], increasing.
  void set_draft_vocabulary(const at::Tensor& token_ids);
  const DraftSettings& settings() const { return settings_; }

  // What its drafter decodes with:
  DraftDecoder& decoder() { return *decoder_; }
  /// The base's token ids of the draft's vocabulary [Vd]; undefined for the whole one.
  at::Tensor target_ids() const;
  /// Outputs of the decoder [...,h] → [...,Vd].
  at::Tensor logits(const at::Tensor& hidden, const LmHead& base) const;

 private:
  bool has_reduced_vocabulary() const { return d2t_.defined(); }
  bool shares_width() const {
    return settings_.architecture.draft_hidden_size == settings_.architecture.hidden_size;
  }
  void check_draft_vocabulary();
  int64_t head_count() const;
  at::Tensor head_weight(const BaseOutputs& base, int64_t head) const;
  at::Tensor head_rows(const at::Tensor& hidden, int64_t head) const;
  ops::StudentRows students(const std::vector<at::Tensor>& steps, const at::Tensor& index,
                            int64_t head) const;
  ops::StreamingLoss cross_entropy(const BaseOutputs& base, const TrainBatch& batch,
                                   const TrainedRows& rows, const std::vector<at::Tensor>& steps,
                                   const at::Tensor& row_weights, int64_t head) const;
  void add_head(DraftLoss& result, const BaseOutputs& base, const TrainBatch& batch,
                const std::vector<at::Tensor>& steps, int64_t head) const;
  void record(const TensorRecorder& recorder, const BaseOutputs& base,
              const std::vector<at::Tensor>& steps) const;

  DraftSettings settings_;
  std::unique_ptr<DraftDecoder> decoder_;
  std::shared_ptr<nn::RmsNorm> norm_;
  std::shared_ptr<nn::Linear> lm_head_;            // null when the base's is used
  std::shared_ptr<ParallelHeads> parallel_heads_;  // null without
  at::Tensor d2t_;  // [Vd] int64, target id minus draft id; undefined for the whole vocabulary
  bool draft_vocabulary_checked_ = false;
};

}  // namespace outrider::eagle
