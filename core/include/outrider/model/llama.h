#pragma once

#include "outrider/model/decoder_only_lm.h"

namespace outrider {

/// LlamaForCausalLM as transformers computes it.
class OUTRIDER_API LlamaForCausalLM : public DecoderOnlyLM {
 public:
  LlamaForCausalLM(const ModelConfig& config, at::TensorOptions options);
};

}  // namespace outrider
