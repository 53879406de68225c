#pragma once

#include <cstdint>
#include <string>

#include "outrider/api.h"
#include "outrider/host/training_data.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// What a base of lower precision is worth as a teacher, on some conversations: against what it was
/// before, by token, over its whole vocabulary.
struct OUTRIDER_API TeacherCost {
  int64_t conversations = 0, tokens = 0;
  double divergence = 0;  // Σ p log(p/q), the mean over tokens, in nats
  double agreement = 0;   // the share of tokens with the same first choice

  Json to_json() const;
  std::string note() const;
};

/// Has the linear layers of a base's decoder layers multiply in eight-bit floats from here on, and
/// frees their weights. Throws kUnsupported for a base without such layers.
OUTRIDER_API void multiply_in_eight_bits(const CausalLM& model);

/// The same for a frozen base, measured. Throws kUnsupported for one that is trained, too.
OUTRIDER_API TeacherCost lower_base_precision(CausalLM& model, const TrainingData& data,
                                              int64_t max_length);

}  // namespace outrider
