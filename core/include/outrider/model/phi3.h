#pragma once

#include "outrider/model/decoder_only_lm.h"

namespace outrider {

/// Phi3ForCausalLM as transformers computes it: Llama with fused projections, optionally a sliding
/// window, and a rotation of the first `partial_rotary_factor` of a head. Throws kUnsupported for
/// rope scaling, which in this family is always longrope.
class OUTRIDER_API Phi3ForCausalLM : public DecoderOnlyLM {
 public:
  Phi3ForCausalLM(const ModelConfig& config, at::TensorOptions options);
};

}  // namespace outrider
