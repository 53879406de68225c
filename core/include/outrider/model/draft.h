#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/base_outputs.h"
#include "outrider/model/base_view.h"
#include "outrider/model/draft_fit.h"
#include "outrider/model/drafter.h"
#include "outrider/model/sequence_part.h"
#include "outrider/model/train_batch.h"
#include "outrider/model/training_cost.h"

namespace outrider {

/// One draft step's results, 0-dimensional tensors on the model's device (reading one
/// synchronises).
struct StepMetrics {
  std::string name;     // "parallel_0_step_2", "head_1"
  at::Tensor loss;      // mean over the trained positions, without the step's weight
  at::Tensor accuracy;  // share of trained positions whose argmax equals the target's
  at::Tensor overlap;   // mean of Σ_v min(p_v, q_v): the acceptance rate of speculative sampling
  at::Tensor count;     // trained positions
};

struct DraftLoss {
  at::Tensor total;  // what to call backward() on
  /// In the order in which drafted tokens follow each other; the same list for every batch, with
  /// counts of zero where it is too short for a step.
  std::vector<StepMetrics> steps;
};

/// The trainable part that an algorithm attaches to a base.
class OUTRIDER_API Draft : public torch::nn::Module {
 public:
  ~Draft() override;

  virtual HiddenStateRequest hidden_states_needed() const = 0;

  /// The training loss; in eval mode the same with what the algorithm's evaluation uses.
  virtual DraftLoss loss(const BaseOutputs& base, const TrainBatch& batch) = 0;

  /// What the draft needs where several processes share each sequence (see TrainBatch::part).
  /// Default: nothing is said, and it is not trained so.
  virtual std::optional<SequenceNeeds> sequence_needs() const;

  /// Whether loss() heeds TrainBatch::documents: no row of one document reads or predicts another.
  /// Default: no, and rows of several documents are refused.
  virtual bool heeds_documents() const;

  /// For predictions before anything runs; asked of drafts on the meta device too. Default: nothing
  /// is said, and they assume that each matrix is used once a position.
  virtual std::optional<TrainingCost> training_cost(const TrainingShape& shape) const;

  /// Called once after a conversion, before any training and never on restore: a draft may start
  /// from copies of the base's parameters. Default: nothing.
  virtual void initialize(const BaseView& base);

  /// A better start than initialize() gives, for a draft that was not trained since: asked for
  /// before a first step. Throws kInvalidArgument where the draft was trained. Default: null, there
  /// is none.
  virtual std::unique_ptr<DraftFit> make_fit(const BaseView& base);

  /// A proposer for one batch of sequences. Default: kUnsupported, saying so.
  virtual std::unique_ptr<Drafter> make_drafter();
};

/// 1 + Σ_k Π_{j≤k} accuracy_j: tokens emitted per base pass by greedy drafting, if the steps' hits
/// were independent (the reference's estimate). Synchronises.
OUTRIDER_API double expected_acceptance_length(const std::vector<double>& accuracies);

}  // namespace outrider
