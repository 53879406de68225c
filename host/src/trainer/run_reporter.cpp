#include "trainer/run_reporter.h"

#include <algorithm>
#include <ostream>

#include "outrider/checkpoint/atomic_file.h"
#include "trainer/metrics_log.h"

namespace outrider {
namespace {

constexpr size_t kSamples = 4;
constexpr int64_t kSampleTokens = 256;

report::MaskSample sample_of(const TokenShards& data, int64_t conversation, int64_t max_length) {
  const auto [ids, mask] = data.conversation(conversation);
  const auto length = std::min(static_cast<int64_t>(ids.size()), max_length);
  const auto shown = std::min(length, kSampleTokens);
  return {conversation,
          length,
          {ids.begin(), ids.begin() + shown},
          {mask.begin(), mask.begin() + shown}};
}

}  // namespace

RunReporter::RunReporter(const std::filesystem::path& run, const TokenShards& data,
                         const Selection& selection, int64_t max_length)
    : file_(run / kFileName) {
  report_.history = report::RunHistory::read(run / MetricsLog::kFileName);
  for (size_t i = 0; i < std::min(kSamples, selection.conversations.size()); ++i) {
    report_.samples.push_back(sample_of(data, selection.conversations[i], max_length));
  }
}

void RunReporter::write(const std::string& status, const Json& record, const Json& best) {
  report_.status = status;
  report_.record = record;
  report_.best = best;
  write_file_atomically(file_, [&](std::ostream& out) { out << report::page(report_); });
}

}  // namespace outrider
