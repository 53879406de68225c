#pragma once

#include <cstdint>
#include <vector>

#include "data/batch_order.h"
#include "outrider/host/training_data.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// What one process computes of the batches of a run.
class BatchSource {
 public:
  virtual ~BatchSource() = default;

  /// This process's part of a batch.
  virtual TrainingInput part(const Batch& batch) = 0;
  /// Makes what was computed of that part what it is of the whole batch.
  virtual void complete(ForwardOutput& output, TokenCounts& counts) const = 0;
};

/// All of each batch. The data must outlive it.
class WholeBatches : public BatchSource {
 public:
  WholeBatches(const TrainingData& data, int64_t max_length)
      : data_(data), max_length_(max_length) {}

  TrainingInput part(const Batch& batch) override { return data_.batch(batch, max_length_); }
  void complete(ForwardOutput&, TokenCounts&) const override {}

 private:
  const TrainingData& data_;
  int64_t max_length_;
};

}  // namespace outrider
