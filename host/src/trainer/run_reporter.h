#pragma once

#include <filesystem>
#include <string>

#include "data/batches.h"
#include "outrider/host/token_shards.h"
#include "outrider/host/trainer.h"
#include "outrider/json.h"
#include "report/page.h"

namespace outrider {

/// Keeps `RUN/report.html`: a page for people about the run so far.
class RunReporter {
 public:
  static constexpr const char* kFileName = "report.html";

  /// Starts from the run's metrics file as it is; a few of the selected conversations serve as
  /// samples of the loss mask, as text where `token_text` knows it.
  RunReporter(const std::filesystem::path& run, const TokenShards& data, const Selection& selection,
              int64_t max_length, const TokenText& token_text);

  /// A line of the metrics.
  void add(const Json& line) { report_.history.add(line); }
  const report::RunHistory& history() const { return report_.history; }

  /// Writes the page anew, as a whole or not at all. Throws kWriteFailed.
  void write(const std::string& status, const Json& record, const Json& best);

 private:
  std::filesystem::path file_;
  report::RunReport report_;
};

}  // namespace outrider
