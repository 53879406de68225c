#pragma once

#include <memory>
#include <vector>

#include "config.h"
#include "outrider/model/base_info.h"
#include "outrider/model/draft.h"
#include "outrider/nn/linear.h"

namespace @name@_plugin {

/// Head i predicts the token i+2 positions after the base's hidden state h, as the base's output
/// matrix applied to h + W_i h + b_i. The base itself predicts the token one position after h.
class Draft final : public outrider::Draft {
 public:
  Draft(const outrider::BaseInfo& base, const Config& config);

  outrider::HiddenStateRequest hidden_states_needed() const override;
  outrider::DraftLoss loss(const outrider::BaseOutputs& base,
                           const outrider::TrainBatch& batch) override;

 private:
  double decay_;
  std::vector<std::shared_ptr<outrider::nn::Linear>> heads_;
};

}  // namespace @name@_plugin
