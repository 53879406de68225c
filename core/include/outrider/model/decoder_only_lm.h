#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "outrider/model/causal_lm.h"
#include "outrider/nn/decoder_layer.h"
#include "outrider/nn/rotary_embedding.h"

namespace outrider {

/// Builds decoder layer `index` with uninitialised parameters.
using LayerFactory = std::function<std::shared_ptr<nn::DecoderLayer>(int64_t index)>;

/// The shape of Llama's layers with the config's sizes and biases; a family changes what it does
/// differently.
OUTRIDER_API nn::DecoderLayerShape layer_shape(const ModelConfig& config);

/// A factory that builds every layer alike, with plain attention and SwiGLU.
OUTRIDER_API LayerFactory same_layers(nn::DecoderLayerShape shape, at::TensorOptions options);

/// `model.*` of a checkpoint: embedding, decoder layers, final norm.
class OUTRIDER_API DecoderStack : public torch::nn::Module {
 public:
  DecoderStack(const ModelConfig& config, at::TensorOptions options,
               const LayerFactory& make_layer);

  at::Tensor embed(const at::Tensor& input_ids) const;
  void drop_layers();

  at::Tensor embedding;  // [V,h], checkpoint name embed_tokens.weight
  std::vector<std::shared_ptr<nn::DecoderLayer>> layers;
  std::shared_ptr<nn::RmsNorm> norm;
  nn::RotaryEmbedding rotary;
};

/// What the base families share: embedding, pre-norm decoder layers, a final norm, and a head that
/// may be tied. A family is a subclass that says how its layers are built; what goes around them is
/// the same for all, since decoding has more than one way through it.
class OUTRIDER_API DecoderOnlyLM : public CausalLM {
 public:
  DecoderOnlyLM(const ModelConfig& config, at::TensorOptions options,
                const LayerFactory& make_layer);
  ~DecoderOnlyLM() override;

  BaseOutputs run_base(const BasePass& pass) final;
  std::optional<at::Tensor> continue_greedily(nn::KvCache& cache, const at::Tensor& ids,
                                              int64_t steps) final;
  const LmHead& head() const final;
  at::Tensor final_norm(const at::Tensor& hidden) const final;
  bool divides_sequences() const override { return true; }
  bool heeds_documents() const override { return true; }
  bool compute_in(at::ScalarType type) override;
  std::vector<std::shared_ptr<torch::nn::Module>> decoder_layers() const override;
  bool supply_layers(std::shared_ptr<LayerSupply> supply) override;
  void drop_decoder_layers() override;

 private:
  const at::Tensor& head_weight() const;
  bool holds_what_it_computes() const;

  std::shared_ptr<DecoderStack> model_;
  std::shared_ptr<nn::Linear> lm_head_;  // null when tied to the embedding
  std::shared_ptr<const LmHead> head_;
  std::shared_ptr<LayerSupply> layer_supply_;  // null: the layers hold their values
};

}  // namespace outrider
