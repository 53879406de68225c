#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "outrider/model/causal_lm.h"

namespace outrider::verify {

/// What a training forward says of the rows of a batch: for each step logits [B,n,V'], see
/// loss::step_logits_name(). Empty for a draft that does not report them. `targets` [B,S], where
/// given: the tokens that are trained on, which decides the cost but no logits. Leaves the draft's
/// training mode and the process's random generators as they were.
struct TrainedSteps {
  std::vector<at::Tensor> logits;
  bool draws = false;  // the pass drew random numbers: later steps may be others the next time
};
TrainedSteps trained_steps(Draft& draft, const BaseOutputs& base, const at::Tensor& ids,
                           const at::Tensor& targets = {});

/// The base over tokens ids [1,S], in one pass without a cache.
BaseOutputs whole_pass(CausalLM& base, const at::Tensor& ids, const HiddenStateRequest& request);

/// A stretch of rows, and what an incremental pass over a cache gave for them.
struct Chunk {
  int64_t begin = 0, end = 0;
  BaseOutputs outputs;
};
/// The base over all tokens but the last, in chunks of these lengths, which repeat behind the
/// first. Throws as the base does where it keeps no cache.
std::vector<Chunk> cached_passes(CausalLM& base, const at::Tensor& ids,
                                 const HiddenStateRequest& request,
                                 const std::vector<int64_t>& lengths);

/// A chain that a draft's Drafter drew behind a row.
struct ServedChain {
  int64_t row = 0;
  at::Tensor tokens;  // [K]
  at::Tensor q;       // [K,V]; undefined for a drafter that draws from nothing
};
/// Prefill and commits over the chunks, and a chain of up to `depth` tokens after each.
std::vector<ServedChain> served_chains(Draft& draft, const std::vector<Chunk>& chunks,
                                       const at::Tensor& ids, int64_t depth);

/// What training says of the tokens that a chain drew: for each step logits [V'], the base's states
/// [1,S,h] being those of `ids` [1,S].
std::vector<at::Tensor> trained_chain(Draft& draft, const BaseOutputs& base, const at::Tensor& ids,
                                      const ServedChain& chain);

}  // namespace outrider::verify
