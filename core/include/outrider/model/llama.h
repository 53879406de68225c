#pragma once

#include <memory>
#include <vector>

#include "outrider/model/causal_lm.h"
#include "outrider/nn/decoder_layer.h"
#include "outrider/nn/linear.h"
#include "outrider/nn/rms_norm.h"
#include "outrider/nn/rotary_embedding.h"

namespace outrider {

/// `model.*` of a Llama checkpoint: embedding, decoder layers, final norm.
class OUTRIDER_API LlamaModel : public torch::nn::Module {
 public:
  LlamaModel(const ModelConfig& config, at::TensorOptions options);

  at::Tensor embed(const at::Tensor& input_ids) const;

  at::Tensor embedding;  // [V,h], checkpoint name embed_tokens.weight
  std::vector<std::shared_ptr<nn::DecoderLayer>> layers;
  std::shared_ptr<nn::RmsNorm> norm;
  nn::RotaryEmbedding rotary;
};

/// LlamaForCausalLM as transformers computes it.
class OUTRIDER_API LlamaForCausalLM : public CausalLM {
 public:
  LlamaForCausalLM(const ModelConfig& config, at::TensorOptions options);

  BaseOutputs run_base(const at::Tensor& input_ids, const at::Tensor& position_ids,
                       const at::Tensor& key_mask, const HiddenStateRequest& request) override;
  const LmHead& head() const override;

 private:
  std::shared_ptr<LlamaModel> model_;
  std::shared_ptr<nn::Linear> lm_head_;  // null when tied to the embedding
  mutable std::unique_ptr<LmHead> head_;
};

}  // namespace outrider
