#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// What a base says next and what a draft says behind that.
struct PseudoGenerated {
  at::Tensor base_token;    // [B,1] int64, the likeliest
  at::Tensor draft_tokens;  // [B,n] int64 of the base's vocabulary, the likeliest; of no more than
                            // a draft looks ahead
  at::Tensor draft_logits;  // [B,n,V'], over the draft's vocabulary
};

/// ModelOpt's pseudo_speculative_generate(): the model's first draft behind sequences [B,S] of one
/// length, from the beginning. Throws kNotConverted without a draft.
OUTRIDER_API PseudoGenerated pseudo_speculative_generate(CausalLM& model, const at::Tensor& ids,
                                                         int64_t steps);

/// ModelOpt's acceptance "rate": tokens an iteration, the base's own included.
struct ReferenceAcceptance {
  std::vector<int64_t> tokens;  // with the prompt's
  double rate;
};

/// A prompt continued greedily by the base alone, by `count` tokens or up to a stop token.
OUTRIDER_API std::vector<int64_t> ground_truth(CausalLM& model, const std::vector<int64_t>& prompt,
                                               int64_t count,
                                               const std::vector<int64_t>& stop_tokens);

/// AcceptanceRateValidation.validate(): drafts are accepted as far as they are the ground truth,
/// which begins with the prompt. Where it ends within a draft, one more iteration is counted.
OUTRIDER_API ReferenceAcceptance validate(CausalLM& model, const std::vector<int64_t>& prompt,
                                          const std::vector<int64_t>& ground_truth, int64_t steps);

/// AcceptanceRateValidation.validate_online() of release 0.47: drafts are accepted as far as the
/// base says the same behind them; its own token in place of a rejected one is not counted, and no
/// token stops it before `count` new ones.
OUTRIDER_API ReferenceAcceptance validate_online(CausalLM& model,
                                                 const std::vector<int64_t>& prompt, int64_t count,
                                                 int64_t steps);

}  // namespace outrider
