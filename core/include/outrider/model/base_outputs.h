#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "outrider/model/lm_head.h"

namespace outrider {

/// What a draft reads of the base's pass; the host computes the union over all attached drafts.
struct HiddenStateRequest {
  std::vector<int64_t> layer_outputs;  // layer indices
  bool last_hidden = true, last_hidden_prenorm = false, input_embeddings = true;
  /// The outputs at padding matter too: there, as elsewhere, they must not depend on other padding.
  bool at_padding = false;
};

/// A base pass, computed now or read from disk. Tensors that were not asked for are undefined.
/// B sequences, S positions, h hidden size.
struct BaseOutputs {
  at::Tensor input_embeddings;                  // [B,S,h]
  std::map<int64_t, at::Tensor> layer_outputs;  // layer → [B,S,h], residual stream after that layer
  at::Tensor last_hidden;                       // [B,S,h], after the final norm
  at::Tensor last_hidden_prenorm;               // [B,S,h], before it
  at::Tensor logits;  // [B,S,V], where a stored pass holds them; else undefined
  /// How many of the rows belong to each sequence, the others are behind its end; empty: all do, or
  /// this is not known on the host.
  std::vector<int64_t> row_counts = {};
  std::shared_ptr<const LmHead> head;
  bool carries_gradient = false;
};

/// The hidden states [B,S,h] that are there, in a fixed order.
inline std::vector<at::Tensor*> hidden_states_of(BaseOutputs& outputs) {
  std::vector<at::Tensor*> all;
  for (auto* states :
       {&outputs.input_embeddings, &outputs.last_hidden, &outputs.last_hidden_prenorm}) {
    if (states->defined()) all.push_back(states);
  }
  for (auto& [layer, states] : outputs.layer_outputs) all.push_back(&states);
  return all;
}

}  // namespace outrider
