#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "outrider/medusa/medusa_config.h"
#include "outrider/model/base_info.h"
#include "outrider/model/draft.h"
#include "outrider/nn/linear.h"

namespace outrider::medusa {

/// One head: residual blocks, then a projection to the vocabulary.
class MedusaHead : public torch::nn::Module {
 public:
  MedusaHead(const BaseInfo& base, int64_t num_layers);

  /// rows [...,h] → [...,h], what the projection reads.
  at::Tensor forward(const at::Tensor& rows) const;
  const at::Tensor& projection() const { return projection_->weight; }  // [V,h]

 private:
  std::vector<std::shared_ptr<nn::Linear>> blocks_;
  std::shared_ptr<nn::Linear> projection_;
};

/// Medusa (arXiv 2401.10774): head i predicts the token i+2 positions after the base's hidden
/// state.
class MedusaDraft : public Draft {
 public:
  /// `base.reference_numerics`, where given, decides whether padding rows are trained, as the
  /// reference trains them.
  MedusaDraft(const BaseInfo& base, const MedusaConfig& config);

  /// The config as it is. Throws kInvalidConfig for more heads or blocks than a draft may have.
  static MedusaConfig resolve(const BaseInfo& base, MedusaConfig config);

  HiddenStateRequest hidden_states_needed() const override;
  std::optional<SequenceNeeds> sequence_needs() const override;
  bool heeds_documents() const override { return true; }
  std::optional<TrainingCost> training_cost(const TrainingShape& shape) const override;
  DraftLoss loss(const BaseOutputs& base, const TrainBatch& batch) override;
  std::unique_ptr<Drafter> make_drafter() override;

 private:
  MedusaConfig config_;
  bool trains_padding_;
  std::vector<std::shared_ptr<MedusaHead>> heads_;
};

}  // namespace outrider::medusa
