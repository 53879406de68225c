#pragma once

#include "outrider/model/decoder_only_lm.h"

namespace outrider {

/// Qwen2ForCausalLM as transformers computes it: Llama with biases of the query, key and value
/// projections, and a sliding window in some layers where `use_sliding_window` asks for it.
class OUTRIDER_API Qwen2ForCausalLM : public DecoderOnlyLM {
 public:
  Qwen2ForCausalLM(const ModelConfig& config, at::TensorOptions options);
};

}  // namespace outrider
