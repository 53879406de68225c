#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "outrider/api.h"
#include "outrider/decode/acceptance.h"
#include "outrider/model/causal_lm.h"
#include "outrider/model/drafter.h"
#include "outrider/ops/sampler.h"

namespace outrider::decode {

struct DecodeOptions {
  int64_t max_new_tokens = 128;
  std::vector<int64_t> stop_tokens;
  SamplingOptions sampling;
  uint64_t seed = 0;            // of the batch's random numbers
  std::vector<uint64_t> seeds;  // or of each prompt's: then the others do not matter to it
  DraftRequest draft;           // without a sampler: the decoder has its own
  AcceptanceRule rule = AcceptanceRule::kLossless;
  /// Called with the tokens of a round: the sequence's number and what follows in it.
  std::function<void(size_t sequence, const std::vector<int64_t>& tokens)> on_tokens;
};

/// What came of one prompt.
struct OUTRIDER_API DecodedSequence {
  std::vector<int64_t> tokens;             // new ones, with the stop token that ended them
  int64_t rounds = 0;                      // passes of the base after the prompt's
  std::vector<int64_t> drafted, accepted;  // of the rounds: how many had a node at depth 1, 2, …
  bool stopped = false;                    // by a stop token

  /// Tokens per pass of the base, without the prompt's pass and the token that it gave; 1 without
  /// such passes.
  double acceptance_length() const;
};

struct DecodedBatch {
  std::vector<DecodedSequence> sequences;
  double prompt_seconds = 0.0, draft_seconds = 0.0, base_seconds = 0.0;  // of the whole batch
};

/// Continues prompts with a base, and a drafter where there is one: it proposes, one pass of the
/// base verifies, and what was accepted is committed to both. It keeps the last batch's caches,
/// with what was recorded on a GPU for them, for the next batch of as many sequences: the
/// parameters of base and draft must stay where they are.
class OUTRIDER_API Decoder {
 public:
  using DrafterFactory = std::function<std::unique_ptr<Drafter>()>;

  /// `hidden_states`: what the drafter reads of the base. An empty factory: no draft.
  explicit Decoder(CausalLM& base, DrafterFactory drafters = {},
                   HiddenStateRequest hidden_states = {});

  /// One batch; prompts of any lengths ≥ 1. Throws kInvalidArgument for an empty prompt, an
  /// unknown token or another number of seeds than prompts, and as the base does.
  DecodedBatch run(const std::vector<std::vector<int64_t>>& prompts,
                   const DecodeOptions& options) const;

 private:
  struct Kept;

  CausalLM& base_;
  DrafterFactory drafters_;
  HiddenStateRequest hidden_states_;
  std::shared_ptr<Kept> kept_;
};

}  // namespace outrider::decode
