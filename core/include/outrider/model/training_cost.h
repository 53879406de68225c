#pragma once

#include <cstdint>
#include <limits>

#include "outrider/ops/linear_input.h"

namespace outrider {

/// A batch of rows [B,S] without padding, all of it trained on, and TrainBatch's way to compute
/// again.
struct TrainingShape {
  int64_t rows = 1, length = 1;
  ops::Recompute recompute = ops::Recompute::kElementwise;
  int64_t most_kept = std::numeric_limits<int64_t>::max();

  double positions() const { return static_cast<double>(rows) * static_cast<double>(length); }
};

/// What one training pass of a draft takes beside its parameters, the base's outputs and what the
/// loss makes a chunk at a time.
struct TrainingCost {
  double kept = 0.0;     // bytes, from the forward pass for the backward pass, the gradients that
                         // the loss makes at once among them
  double working = 0.0;  // bytes that come and go beside these at the fullest moment
  double operations = 0.0;  // of products and attention, forward and backward, none of them twice
};

}  // namespace outrider
