#pragma once

#include <ATen/core/Tensor.h>

namespace outrider {

/// A base pass that was stored: what offline training reads instead of running the base. ModelOpt's
/// keys stand in brackets. Tensors are brought to the model's type and device where they are read.
struct StoredBaseOutputs {
  at::Tensor last_hidden;    // [B,S,h] (base_model_hidden_states)
  bool is_prenorm = false;   // last_hidden is from before the final norm (base_hidden_prenorm)
  at::Tensor layer_outputs;  // [B,S,K·h], the drafts' layers in ascending order (aux_hidden_states)
  at::Tensor input_embeddings;  // [B,S,h]; undefined: looked up (base_model_input_embeds)
  at::Tensor logits;            // [B,S,V]; undefined: made of last_hidden (base_model_logits)
};

}  // namespace outrider
