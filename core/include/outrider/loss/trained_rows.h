#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "outrider/api.h"
#include "outrider/model/train_batch.h"

namespace outrider::loss {

/// The rows that a loss is computed on, in order: positions of the batch's sequences.
struct OUTRIDER_API TrainedRows {
  int64_t length;                 // S
  at::Tensor sequence, position;  // [N] int64
  at::Tensor weight;              // [N] float32; 0: the row is there, but does not count

  /// Of what lies `offset` positions after each row, the index into the batch's B·S positions.
  at::Tensor index(int64_t offset = 0) const;
};

/// Of the first K positions of each sequence of `length`, those of weight other than 0. weights
/// [B,K] float32. On the CPU only those are returned. Elsewhere counting them would wait for the
/// device: `most` rows are, those of weight 0 behind the others, where no more than that count; all
/// where that is not known.
OUTRIDER_API TrainedRows trained_rows(const at::Tensor& weights, int64_t length,
                                      std::optional<int64_t> most = {});

/// Whether the token `ahead` positions after each row is of the row's document, [B,S-ahead]
/// float32; 1 where rows hold one document each.
OUTRIDER_API at::Tensor within_documents(const TrainBatch& batch, int64_t ahead);

/// Which rows may be paired with a target that is trained on.
enum class RowRule {
  kConnected,  // everything from the row to its target is one document's tokens
  kToken,      // the row is a token
  kAny,
};

/// Rows of the base's state, each with the token `ahead` positions later. Row t is trained where
/// that token is a target by the rule of the loss mask (see token_targets), of the row's document,
/// and `rule` allows it.
struct ShiftedTargets {
  TrainedRows rows;
  at::Tensor labels;  // [N] int64; any token where the weight is 0
};
/// `ahead` ≥ 1; there are no rows where sequences are shorter.
OUTRIDER_API ShiftedTargets shifted_targets(const TrainBatch& batch, int64_t ahead,
                                            RowRule rule = RowRule::kConnected);

}  // namespace outrider::loss
