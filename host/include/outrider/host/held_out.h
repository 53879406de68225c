#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "outrider/api.h"
#include "outrider/host/draft_results.h"
#include "outrider/host/training_data.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// Teacher-forced results on held-out conversations, weighted by trained tokens.
struct OUTRIDER_API Evaluation {
  int64_t conversations = 0, trained_tokens = 0;
  std::vector<DraftResult> drafts;

  /// The sum of the drafts' losses. It decides which checkpoint of a run is the best: it is the
  /// number that training lowers, it moves with every token where an accuracy moves only with those
  /// whose first choice changes, and drafts that train together are compared together.
  double loss() const;
  Json to_json() const;
};

/// After each batch: the conversations done, all of them, and the tokens of those done.
using EvaluationProgress = std::function<void(int64_t done, int64_t total, int64_t tokens)>;

/// The drafts are in training mode (all steps) and no gradient is computed. What `on_batch` throws
/// ends it.
OUTRIDER_API Evaluation evaluate(CausalLM& model, const TrainingData& data, int64_t batch_size,
                                 int64_t max_length, const EvaluationProgress& on_batch = {});

}  // namespace outrider
