#pragma once

#include "outrider/model/decoder_only_lm.h"

namespace outrider {

/// Qwen3ForCausalLM as transformers computes it: Llama with queries and keys normalised per head
/// before the rotation, and a sliding window in some layers where `use_sliding_window` asks for it.
class OUTRIDER_API Qwen3ForCausalLM : public DecoderOnlyLM {
 public:
  Qwen3ForCausalLM(const ModelConfig& config, at::TensorOptions options);
};

}  // namespace outrider
