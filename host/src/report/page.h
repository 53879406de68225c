#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"
#include "report/history.h"

namespace outrider::report {

/// The beginning of a conversation as training sees it.
struct MaskSample {
  int64_t conversation = 0;
  int64_t length = 0;  // tokens of the conversation, of which the vectors may hold fewer
  std::vector<int32_t> input_ids;
  std::vector<uint8_t> loss_mask;
  std::vector<std::string> texts;  // of stretches(); empty where nobody knows them
};

/// Begin and end of the stretches of tokens that are trained on, or not, in order.
OUTRIDER_API std::vector<std::pair<int64_t, int64_t>> stretches(const MaskSample& sample);

/// What a report is made of.
struct RunReport {
  std::string status;  // "finished", "running", "interrupted", or the error that ended it
  Json record;         // run.json
  Json best;           // {"step", "loss", …}, or null
  RunHistory history;
  std::vector<MaskSample> samples;
};

/// One static HTML page: no script, nothing from elsewhere, text escaped; it adapts to narrow
/// screens and to a dark colour scheme.
OUTRIDER_API std::string page(const RunReport& report);

}  // namespace outrider::report
