#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/causal_lm.h"
#include "trainer/optimizer.h"

namespace outrider {

/// What gets gradients, each tensor once. Throws kNotConverted where that is nothing.
OUTRIDER_API std::vector<AdamW::Parameter> trainable_parameters(const CausalLM& model);

/// Updates of what a model trains: forward and backward over the batches of a step, gradients
/// reduced and clipped, AdamW. It knows no file, clock or log.
class OUTRIDER_API TrainingStep {
 public:
  /// Gets the float32 gradients of a whole step before they are clipped, to change them in place:
  /// where several processes train together, they are summed here.
  using Reduce = std::function<void(const std::vector<at::Tensor>& gradients)>;

  /// `model` must outlive it.
  TrainingStep(CausalLM& model, const AdamWOptions& options, Reduce reduce = {});

  /// Forward and backward over one batch of a step, whose loss counts `share` (the shares of a step
  /// sum to 1).
  ForwardOutput learn(ForwardInput input, double share);

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
  CausalLM& model_;
  std::vector<AdamW::Parameter> parameters_;
  bool trains_base_;
  AdamW optimizer_;
  Reduce reduce_;
  at::Tensor loss_;  // of the step so far
};

}  // namespace outrider
