#pragma once

#include <cstdint>
#include <vector>

#include "data/packing.h"
#include "outrider/api.h"

namespace outrider {

/// Where a run stands in its data: the next batch to read is `batch` of `epoch`.
struct DataPosition {
  int64_t epoch = 0, batch = 0;
  bool operator==(const DataPosition&) const = default;
};

using Batch = std::vector<ConversationRow>;

/// The batches of every epoch: rows shuffled anew per epoch, those of similar length together so
/// that little is padded. A pure function of its arguments on every platform.
class OUTRIDER_API BatchOrder {
 public:
  /// Batches of `batch_size` of these rows.
  BatchOrder(PackedRows rows, int64_t batch_size, uint64_t seed);

  /// The last batch of an epoch's shuffle may be smaller; none is dropped.
  int64_t batches_per_epoch() const;
  /// Every row once.
  std::vector<Batch> epoch(int64_t number) const;

 private:
  PackedRows rows_;
  int64_t batch_size_;
  uint64_t seed_;
};

/// Walks through an order without end, epoch after epoch, from any position.
class OUTRIDER_API BatchCursor {
 public:
  BatchCursor(BatchOrder order, DataPosition position);

  /// The next `count` batches, fewer where the epoch ends; then moves on.
  std::vector<Batch> next(int64_t count);

  const DataPosition& position() const { return position_; }
  /// Epochs done, with the part of the current one.
  double epochs() const;

 private:
  BatchOrder order_;
  DataPosition position_;
  int64_t loaded_epoch_ = -1;
  std::vector<Batch> batches_;  // of loaded_epoch_
};

}  // namespace outrider
