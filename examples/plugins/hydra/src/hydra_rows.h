#pragma once

#include <vector>

#include "outrider/model/train_batch.h"

namespace hydra {

/// What one head is trained on, as indices into the batch's B·S positions: the base's state at
/// rows[n], the tokens at rows[n]+1 … rows[n]+reach-1, and the target at rows[n]+reach.
struct HeadRows {
  int64_t reach;
  at::Tensor rows;    // [N] int64, ascending
  at::Tensor labels;  // [N] int64
  at::Tensor mask;    // [N] float32: 1 = train on this one
};

/// The rows of `heads` heads; head i has reach i+2. A row is trained where its target is one by the
/// rule of the loss mask, and where all positions from its own to its target's are tokens of one
/// document. On the CPU only trained rows are returned; elsewhere leaving out the others would
/// synchronise.
std::vector<HeadRows> head_rows(const outrider::TrainBatch& batch, int64_t heads);

}  // namespace hydra
