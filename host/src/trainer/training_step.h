#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/causal_lm.h"
#include "outrider/ops/product.h"
#include "trainer/optimizer.h"

namespace outrider {

/// What gets gradients, each tensor once. Throws kNotConverted where that is nothing.
OUTRIDER_API std::vector<AdamW::Parameter> trainable_parameters(const CausalLM& model);

/// What changes the float32 gradients of a whole step, in place, before they are clipped: where
/// several processes train together, it sums them.
struct GradientReduction {
  /// The gradient of parameter `index` is complete, while others are still computed.
  std::function<void(size_t index, const at::Tensor& gradient)> ready;
  /// All are, by parameter, undefined where there is none.
  std::function<void(const std::vector<at::Tensor>& gradients)> finish;
};

/// What a step computes again: see TrainBatch::recompute and most_kept.
struct Recomputation {
  ops::Recompute level = ops::Recompute::kNothing;
  std::function<int64_t(const TrainBatch&)> most_kept{};  // empty: without a limit
};

/// Whether a parameter that belongs to no draft would be trained.
bool trains_base(const CausalLM& model);

/// Updates of what a model trains: forward and backward over the batches of a step, gradients
/// reduced and clipped, AdamW. It knows no file, clock or log.
class OUTRIDER_API TrainingStep {
 public:
  /// `model` must outlive it.
  TrainingStep(CausalLM& model, const AdamWOptions& options, GradientReduction reduction = {},
               Recomputation recompute = {});
  ~TrainingStep();
  TrainingStep(const TrainingStep&) = delete;
  TrainingStep& operator=(const TrainingStep&) = delete;

  /// Forward and backward over one batch of a step, whose loss counts `share` (the shares of a step
  /// sum to 1). Gradients of the step's last batch are reduced as they are computed.
  ForwardOutput learn(ForwardInput input, double share, bool is_last = false);

  /// What forward and backward over one batch make.
  struct Pass {
    ForwardOutput output;
    at::Tensor loss;                    // times its share
    std::vector<at::Tensor> gradients;  // by parameter, undefined where there is none
  };
  /// The work of learn() on a batch, whose results the step does not have yet: gradients are left
  /// in `places`, by parameter, where there are any. Waits for nothing where drafts do not.
  Pass pass(ForwardInput input, double share, const std::vector<at::Tensor>& places = {});
  /// Gives the step what such a pass made, last of its batches; with `keeps` the pass's gradients
  /// stay as they are, else the step may change them.
  void add(const Pass& pass, bool keeps);
  /// Drops what an interrupted pass has left.
  void forget();

  struct Result {
    at::Tensor loss, gradient_norm;  // 0-dim, on the model's device; the norm before clipping
  };
  /// Ends a step: updates the parameters by what learn() has gathered since the last one.
  Result update(double learning_rate);

  const std::vector<AdamW::Parameter>& parameters() const { return parameters_; }
  /// Whether a parameter that belongs to no draft is among them.
  bool trains_base() const { return trains_base_; }
  AdamW& optimizer() { return optimizer_; }
  const AdamW& optimizer() const { return optimizer_; }

 private:
  void collect(size_t index);
  std::pair<ForwardOutput, at::Tensor> forward_and_backward(ForwardInput input, double share);

  CausalLM& model_;
  std::vector<AdamW::Parameter> parameters_;
  bool trains_base_;
  AdamW optimizer_;
  GradientReduction reduction_;
  Recomputation recompute_;
  ops::TimedProducts timed_products_;
  bool is_last_ = false;                      // of the step's batches
  std::vector<at::Tensor>* taken_ = nullptr;  // where gradients go instead of to the optimizer
  at::Tensor loss_;                           // of the step so far
};

}  // namespace outrider
