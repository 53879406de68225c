#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "generate/measurement.h"
#include "outrider/api.h"
#include "outrider/host/held_out.h"
#include "outrider/host/trainer.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// What came of decoding prompts with each draft of a model.
struct DecodedPrompts {
  struct WithDraft {
    std::string mode;
    Acceptance acceptance;
  };

  int64_t prompts = 0;
  std::vector<WithDraft> drafts;

  /// {"prompts", "drafts": [{"mode", "acceptance_length", "interval", "acceptance_by_position"}]}
  Json to_json() const;
  /// The inverse; nothing for anything else.
  static std::optional<DecodedPrompts> read(const Json& json);
};

/// The prompts of a run, decoded as `outrider eval` decodes them: the likeliest tokens, with a
/// chain of each draft. A run goes on as if it had not been done.
class OUTRIDER_API EvalPrompts {
 public:
  /// Reads them; of several processes the first, for all. Throws as read_prompt_file() and
  /// prompt_tokens(), kInvalidData for tokens that the base does not know, kUnsupported where base
  /// or drafts cannot decode.
  EvalPrompts(const TrainOptions& options, CausalLM& model);

  /// Several processes decode a part each and return the same. What `on_batch` throws ends it.
  DecodedPrompts decode(CausalLM& model, const EvaluationProgress& on_batch) const;

 private:
  using Answers = std::vector<decode::DecodedSequence>;

  MeasuredTokens read(const CausalLM& model) const;
  Answers decoded_with(CausalLM& model, size_t draft, const EvaluationProgress& on_batch) const;
  Answers decoded_together(const decode::Decoder& decoder, const MeasuredTokens& prompts) const;

  const TrainOptions& options_;
  MeasuredTokens prompts_;
  std::vector<int64_t> stop_tokens_;
};

}  // namespace outrider
