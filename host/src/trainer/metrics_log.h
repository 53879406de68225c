#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// `metrics.jsonl`: one JSON object per line, each with its "step", on disk as soon as it is
/// written. Lines for which the disk has no room are kept, and written with the next.
class OUTRIDER_API MetricsLog {
 public:
  static constexpr const char* kFileName = "metrics.jsonl";

  /// Continues the file in `run` after step `step`: lines of later steps, and a line that was cut
  /// short, are dropped. Throws kWriteFailed.
  MetricsLog(const std::filesystem::path& run, int64_t step);

  /// Whether the line, and all before it, are in the file.
  bool append(const Json& line);

  /// Writes what was kept. Throws kWriteFailed.
  void flush();

 private:
  void open();
  bool write_pending();

  std::filesystem::path path_;
  std::ofstream file_;
  std::string pending_;
};

}  // namespace outrider
