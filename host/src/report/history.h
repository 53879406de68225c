#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"
#include "report/chart.h"

namespace outrider::report {

/// What the lines of metrics.jsonl say about one draft, over steps.
struct DraftHistory {
  std::string mode;
  std::vector<Series> accuracies;  // one per step of the draft
  Series acceptance;               // expected acceptance length
};

/// A run's metrics as series. Lines with keys that are missing or of a wrong type add what they
/// have.
class OUTRIDER_API RunHistory {
 public:
  RunHistory();
  /// The lines of a metrics file; one that is cut short is left out.
  static RunHistory read(const std::filesystem::path& file);

  void add(const Json& line);

  Series loss, held_out_loss;  // sums over the drafts
  Series lm_loss, learning_rate, gradient_norm, tokens_per_second, trained_tokens_per_second,
      memory;
  std::vector<DraftHistory> training, held_out;
  std::vector<DraftHistory> decoded;  // accuracies: what was accepted at each position
  Json last_training, last_evaluation, last_decoding;  // lines
};

}  // namespace outrider::report
