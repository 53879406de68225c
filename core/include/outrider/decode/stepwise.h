#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "outrider/api.h"
#include "outrider/model/drafter.h"

namespace outrider::decode {

/// A draft that goes from token to token: what its drafter gives to draft_stepwise(). B sequences,
/// k places in each, whatever a state is in the last dimension, here h.
struct DraftSteps {
  at::Tensor state;  // [B,1,h], behind the sequences' ends
  /// states [B,k,h] → [B,k,V'] for the next token.
  std::function<at::Tensor(const at::Tensor& states)> logits;
  /// tokens [B,k] of the base's vocabulary, which follow states [B,k,h] → the states [B,k,h] behind
  /// them. `seen` [1 or B,k,m]: which of all tokens that it was given since state, these k the
  /// last of them, each one has before it, itself included; undefined: each call continues the one
  /// before.
  std::function<at::Tensor(const at::Tensor& states, const at::Tensor& tokens,
                           const at::Tensor& seen)>
      advance;
  at::Tensor vocabulary;    // [V'] int64: tokens of the base; undefined: V' is its vocabulary
  int64_t vocab_size = 0;   // V, of the base
  int64_t most_levels = 0;  // how far the draft looks ahead; 0: as far as it is asked to
};

/// What the request asks for: a chain, a tree of a given form, or the likeliest tree as EAGLE-2
/// (arXiv 2406.16858) finds it.
OUTRIDER_API DraftTree draft_stepwise(const DraftSteps& steps, const DraftRequest& request);

}  // namespace outrider::decode
