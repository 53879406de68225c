#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// Means over the trained positions of one drafting step.
struct StepResult {
  std::string name;
  double loss = 0, accuracy = 0, overlap = 0;
  int64_t count = 0;  // positions
};

/// Teacher-forced results of one draft.
struct DraftResult {
  std::string mode;
  double loss = 0;  // the draft's total, weighted by the positions of its first step
  std::vector<StepResult> steps;
  /// What follows from the accuracies (greedy drafting) and from the overlaps (speculative
  /// sampling): tokens per base pass.
  double expected_acceptance_length = 0, expected_acceptance_length_sampling = 0;
};

/// As metrics.jsonl has them, with those names.
OUTRIDER_API Json to_json(const std::vector<DraftResult>& drafts);

/// The results in the member "drafts" of `line`; nothing where that is not what to_json() writes.
OUTRIDER_API std::optional<std::vector<DraftResult>> draft_results_in(const Json& line);

}  // namespace outrider
