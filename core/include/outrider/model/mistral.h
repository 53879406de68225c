#pragma once

#include "outrider/model/decoder_only_lm.h"

namespace outrider {

/// MistralForCausalLM as transformers computes it: Llama with a sliding window (arXiv 2310.06825)
/// in every layer. `sliding_window` is 4096 where it is absent, and null for none.
class OUTRIDER_API MistralForCausalLM : public DecoderOnlyLM {
 public:
  MistralForCausalLM(const ModelConfig& config, at::TensorOptions options);
};

}  // namespace outrider
