#pragma once

#include <cstdint>
#include <filesystem>

#include "outrider/api.h"

namespace outrider {

/// Records what some steps of a run do, by time: operators on the host, kernels and copies on the
/// device. Perfetto and chrome://tracing show the file.
class StepTrace {
 public:
  /// Of `steps` steps, after the first ones that warm up; 0: of none.
  StepTrace(int64_t steps, std::filesystem::path file) : steps_(steps), file_(std::move(file)) {}
  ~StepTrace();
  StepTrace(const StepTrace&) = delete;
  StepTrace& operator=(const StepTrace&) = delete;

  /// Call before each step.
  void before_step();
  /// Writes what is recorded, if anything is and nothing has been written.
  void finish();

 private:
  int64_t steps_, seen_ = 0;
  bool is_recording_ = false;
  std::filesystem::path file_;
};

}  // namespace outrider
