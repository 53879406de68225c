#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "distributed/process_group.h"
#include "outrider/host/training_data.h"
#include "outrider/model/causal_lm.h"
#include "trainer/batch_source.h"

namespace outrider {

/// This process's part of the batches that several processes share. All parts of a batch are
/// equally wide, so that each process makes the same steps; one that gets no row has one
/// without a target.
class SharedBatches : public BatchSource {
 public:
  /// All must outlive it. `sequences`: who shares this one's sequences, and so has the same part of
  /// a batch; null: each process has one of its own.
  SharedBatches(ProcessGroup& processes, const TrainingData& data, const CausalLM& model,
                int64_t max_length, std::shared_ptr<SequenceShare> sequences);

  TrainingInput part(const Batch& batch) override;

  /// Losses, metrics and counts. Throws kUnsupported where a draft's loss is no share of the
  /// batch's.
  void complete(ForwardOutput& output, TokenCounts& counts) const override;

 private:
  Batch own(const Batch& batch) const;

  ProcessGroup& processes_;
  const TrainingData& data_;
  const CausalLM& model_;
  int64_t max_length_;
  std::shared_ptr<SequenceShare> sequences_;
  int64_t counts_summed_ = 0;  // in the present pass
};

}  // namespace outrider
