#pragma once

#include <c10/core/StreamGuard.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "outrider/kernels/device_graph.h"
#include "trainer/training_step.h"

namespace outrider {

/// A stream of its own for a device's work, for as long as the object lives: graphs cannot be
/// recorded on the default one.
class SideStream {
 public:
  explicit SideStream(at::Device device);
  ~SideStream();
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

 private:
  at::Device device_;
  c10::StreamGuard guard_;
};

/// Passes over batches on a GPU, each form of batch recorded as a graph when it has come often
/// enough. Results are those of TrainingStep::learn(), which computes what is not recorded.
class RecordedPasses {
 public:
  struct Options {
    /// Larger batches keep the GPU busy without.
    std::optional<int64_t> most_tokens;
    /// Told why nothing is recorded any more, where a draft's pass cannot be; empty: that is
    /// thrown.
    std::function<void(const std::string&)> on_failure;
  };
  /// `training` must outlive it.
  RecordedPasses(TrainingStep& training, Options options);

  /// What is in the output is overwritten by the next call. `is_only`: the step has no other batch.
  ForwardOutput learn(ForwardInput input, double share, bool is_last, bool is_only);

 private:
  /// Of one form of batch.
  struct Recording {
    int64_t seen = 0;
    std::unique_ptr<DeviceGraph> graph;
    TrainBatch batch;  // which the graph reads
    TrainingStep::Pass pass;
  };

  void record(Recording& recording, const ForwardInput& input, double share);
  void give_up(const std::string& reason);

  TrainingStep& training_;
  Options options_;
  std::map<std::string, Recording> recordings_;
  const DeviceGraph* first_ = nullptr;  // whose memory all use
  std::vector<at::Tensor> gradients_;   // where all leave theirs, by parameter
  int64_t recorded_ = 0;
};

}  // namespace outrider
