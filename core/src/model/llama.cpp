#include "outrider/model/llama.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace outrider {
namespace {

// A module that only owns a `weight`, as torch.nn.Embedding does in checkpoints.
struct Embedding : torch::nn::Module {
  Embedding(int64_t rows, int64_t size, at::TensorOptions options) {
    weight = register_parameter("weight", at::empty({rows, size}, options));
  }
  at::Tensor weight;
};

nn::DecoderLayerShape layer_shape(const ModelConfig& config) {
  nn::DecoderLayerShape shape;
  shape.attention = {config.hidden_size,         config.hidden_size, config.num_attention_heads,
                     config.num_key_value_heads, config.head_dim,    config.attention_bias};
  shape.intermediate_size = config.intermediate_size;
  shape.mlp_bias = config.mlp_bias;
  shape.rms_norm_eps = config.rms_norm_eps;
  return shape;
}

}  // namespace

LlamaModel::LlamaModel(const ModelConfig& config, at::TensorOptions options)
    : rotary(config.rope, config.head_dim) {
  embedding = register_module("embed_tokens",
                              std::make_shared<Embedding>(config.vocab_size, config.hidden_size,
                                                          options))
                  ->weight;
  auto list = std::make_shared<torch::nn::Module>();
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layers.push_back(list->register_module(
        std::to_string(i), std::make_shared<nn::DecoderLayer>(layer_shape(config), options)));
  }
  register_module("layers", list);
  norm = register_module("norm", std::make_shared<nn::RmsNorm>(config.hidden_size,
                                                               config.rms_norm_eps, options));
}

at::Tensor LlamaModel::embed(const at::Tensor& input_ids) const {
  return at::embedding(embedding, input_ids);
}

LlamaForCausalLM::LlamaForCausalLM(const ModelConfig& config, at::TensorOptions options)
    : CausalLM(config) {
  model_ = register_module("model", std::make_shared<LlamaModel>(config, options));
  if (!config.tie_word_embeddings) {
    lm_head_ = register_module("lm_head",
                               std::make_shared<nn::Linear>(config.hidden_size, config.vocab_size,
                                                            /*with_bias=*/false, options));
  }
  head_ = std::make_unique<LmHead>(model_->embedding,
                                   lm_head_ ? lm_head_->weight : model_->embedding);
}

const LmHead& LlamaForCausalLM::head() const { return *head_; }

BaseOutputs LlamaForCausalLM::run_base(const at::Tensor& input_ids, const at::Tensor& position_ids,
                                       const at::Tensor& key_mask,
                                       const HiddenStateRequest& request) {
  BaseOutputs outputs{.head = head()};
  auto hidden = model_->embed(input_ids);
  if (request.input_embeddings) outputs.input_embeddings = hidden;
  const auto positions = position_ids.defined()
                             ? position_ids
                             : at::arange(input_ids.size(1), input_ids.options()).unsqueeze(0);
  const auto tables = model_->rotary.tables(positions, hidden.scalar_type());
  for (size_t i = 0; i < model_->layers.size(); ++i) {
    hidden = model_->layers[i]->forward(hidden, tables, key_mask);
    const auto& wanted = request.layer_outputs;
    if (std::find(wanted.begin(), wanted.end(), static_cast<int64_t>(i)) != wanted.end()) {
      outputs.layer_outputs[static_cast<int64_t>(i)] = hidden;
    }
  }
  if (request.last_hidden_prenorm) outputs.last_hidden_prenorm = hidden;
  if (request.last_hidden) outputs.last_hidden = model_->norm->forward(hidden);
  return outputs;
}

}  // namespace outrider
