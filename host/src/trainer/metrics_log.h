#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// `metrics.jsonl`: one JSON object per line, each with its "step", on disk as soon as it is
/// written.
class OUTRIDER_API MetricsLog {
 public:
  static constexpr const char* kFileName = "metrics.jsonl";

  /// Continues the file in `run` after step `step`: lines of later steps, and a line that was cut
  /// short, are dropped. Throws kWriteFailed.
  MetricsLog(const std::filesystem::path& run, int64_t step);

  /// Throws kWriteFailed.
  void append(const Json& line);

 private:
  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace outrider
