#include "trainer/run_reporter.h"

#include <algorithm>
#include <ostream>

#include "outrider/files/atomic_file.h"
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
          {mask.begin(), mask.begin() + shown},
          {}};
}

std::vector<std::vector<int32_t>> ids_in_stretches(const report::MaskSample& sample) {
  std::vector<std::vector<int32_t>> ids;
  for (const auto& [begin, end] : report::stretches(sample)) {
    ids.emplace_back(sample.input_ids.begin() + begin, sample.input_ids.begin() + end);
  }
  return ids;
}

void add_texts(std::vector<report::MaskSample>& samples, const TokenText& token_text) {
  std::vector<std::vector<std::vector<int32_t>>> ids;
  for (const auto& sample : samples) ids.push_back(ids_in_stretches(sample));
  auto texts = token_text(ids);
  if (!texts || texts->size() != samples.size()) return;
  for (size_t i = 0; i < samples.size(); ++i) samples[i].texts = std::move(texts->at(i));
}

}  // namespace

RunReporter::RunReporter(const std::filesystem::path& run, const TokenShards& data,
                         const Selection& selection, int64_t max_length,
                         const TokenText& token_text)
    : file_(run / kFileName) {
  report_.history = report::RunHistory::read(run / MetricsLog::kFileName);
  for (size_t i = 0; i < std::min(kSamples, selection.conversations.size()); ++i) {
    report_.samples.push_back(sample_of(data, selection.conversations[i], max_length));
  }
  if (token_text) add_texts(report_.samples, token_text);
}

void RunReporter::write(const std::string& status, const Json& record, const Json& best) {
  report_.status = status;
  report_.record = record;
  report_.best = best;
  write_file_atomically(file_, [&](std::ostream& out) { out << report::page(report_); });
}

}  // namespace outrider
