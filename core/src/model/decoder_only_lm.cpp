#include "outrider/model/decoder_only_lm.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "model/recorded_pass.h"
#include "outrider/error.h"

namespace outrider {
namespace {

// A module that only owns a `weight`, as torch.nn.Embedding does in checkpoints.
struct Embedding : torch::nn::Module {
  Embedding(int64_t rows, int64_t size, at::TensorOptions options) {
    weight = register_parameter("weight", at::empty({rows, size}, options));
  }
  at::Tensor weight;
};

bool contains(const std::vector<int64_t>& layers, int64_t layer) {
  return std::find(layers.begin(), layers.end(), layer) != layers.end();
}

void check_cached(const BasePass& pass) {
  if (pass.cache && (pass.key_mask.defined() || pass.part)) {
    throw Error(ErrorCode::kInternal, "a pass with a cache has neither a key mask nor a part");
  }
}

std::optional<nn::CachedPass> cached_pass(const BasePass& pass) {
  if (!pass.cache) return std::nullopt;
  return nn::CachedPass(*pass.cache, pass.input_ids.size(1), pass.input_ids.device(),
                        pass.tree_mask);
}

at::Tensor positions_of(const BasePass& pass, const std::optional<nn::CachedPass>& cached) {
  if (pass.position_ids.defined()) return pass.position_ids;
  if (cached) return cached->positions();
  return at::arange(pass.input_ids.size(1), pass.input_ids.options()).unsqueeze(0);
}

}  // namespace

nn::DecoderLayerShape layer_shape(const ModelConfig& config) {
  nn::DecoderLayerShape shape;
  shape.attention = {.input_size = config.hidden_size,
                     .hidden_size = config.hidden_size,
                     .num_heads = config.num_attention_heads,
                     .num_key_value_heads = config.num_key_value_heads,
                     .head_dim = config.head_dim,
                     .bias = config.attention_bias};
  shape.intermediate_size = config.intermediate_size;
  shape.mlp_bias = config.mlp_bias;
  shape.rms_norm_eps = config.rms_norm_eps;
  return shape;
}

LayerFactory same_layers(nn::DecoderLayerShape shape, at::TensorOptions options) {
  return [=](int64_t) { return std::make_shared<nn::DecoderLayer>(shape, options); };
}

DecoderStack::DecoderStack(const ModelConfig& config, at::TensorOptions options,
                           const LayerFactory& make_layer)
    : rotary(config.rope, config.head_dim) {
  embedding = register_module("embed_tokens", std::make_shared<Embedding>(
                                                  config.vocab_size, config.hidden_size, options))
                  ->weight;
  auto list = std::make_shared<torch::nn::Module>();
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layers.push_back(list->register_module(std::to_string(i), make_layer(i)));
  }
  register_module("layers", list);
  norm = register_module(
      "norm", std::make_shared<nn::RmsNorm>(config.hidden_size, config.rms_norm_eps, options));
}

at::Tensor DecoderStack::embed(const at::Tensor& input_ids) const {
  return at::embedding(embedding, input_ids);
}

void DecoderStack::drop_layers() {
  layers.clear();
  unregister_module("layers");
}

DecoderOnlyLM::DecoderOnlyLM(const ModelConfig& config, at::TensorOptions options,
                             const LayerFactory& make_layer)
    : CausalLM(config) {
  model_ = register_module("model", std::make_shared<DecoderStack>(config, options, make_layer));
  if (!config.tie_word_embeddings) {
    lm_head_ = register_module("lm_head",
                               std::make_shared<nn::Linear>(config.hidden_size, config.vocab_size,
                                                            /*with_bias=*/false, options));
  }
  head_ = std::make_shared<const LmHead>(model_->embedding, head_weight());
}

DecoderOnlyLM::~DecoderOnlyLM() = default;

const at::Tensor& DecoderOnlyLM::head_weight() const {
  return lm_head_ ? lm_head_->weight : model_->embedding;
}

const LmHead& DecoderOnlyLM::head() const { return *head_; }

bool DecoderOnlyLM::compute_in(at::ScalarType type) {
  head_ = std::make_shared<const LmHead>(model_->embedding, head_weight(), type);
  return true;
}

at::Tensor DecoderOnlyLM::final_norm(const at::Tensor& hidden) const {
  return model_->norm->forward(hidden);
}

std::vector<std::shared_ptr<torch::nn::Module>> DecoderOnlyLM::decoder_layers() const {
  return {model_->layers.begin(), model_->layers.end()};
}

bool DecoderOnlyLM::supply_layers(std::shared_ptr<LayerSupply> supply) {
  layer_supply_ = std::move(supply);
  return true;
}

void DecoderOnlyLM::drop_decoder_layers() { model_->drop_layers(); }

bool DecoderOnlyLM::holds_what_it_computes() const {
  return !layer_supply_ && head_->dtype() == dtype();
}

std::optional<at::Tensor> DecoderOnlyLM::continue_greedily(nn::KvCache& cache,
                                                           const at::Tensor& ids, int64_t steps) {
  if (!ids.is_cuda() || !holds_what_it_computes()) return std::nullopt;
  const PassForm form{.sequences = ids.size(0), .rows = 1};
  const auto recorded = RecordedPass::of(form, steps, cache, *model_);
  if (!recorded) return std::nullopt;
  return recorded->continue_greedily(ids, head_weight(), steps);
}

BaseOutputs DecoderOnlyLM::run_base(const BasePass& pass) {
  check_cached(pass);
  if (RecordedPass::is_for(pass) && holds_what_it_computes()) {
    const PassForm form{pass.input_ids.size(0), pass.input_ids.size(1), pass.tree_mask.defined()};
    if (const auto recorded = RecordedPass::of(form, form.rows, *pass.cache, *model_)) {
      auto outputs = recorded->run(pass);
      outputs.head = head_;
      return outputs;
    }
  }
  const auto& request = pass.request;
  BaseOutputs outputs{.head = head_};
  auto hidden = model_->embed(pass.input_ids).to(dtype());
  if (request.input_embeddings) outputs.input_embeddings = hidden;
  auto cached = cached_pass(pass);
  const auto positions = positions_of(pass, cached);
  const auto tables =
      model_->rotary.tables(positions, hidden.scalar_type(), pass.part ? pass.part->length : 0);
  const auto share = pass.part ? pass.part->share : nullptr;
  for (int64_t i = 0; i < config().num_hidden_layers; ++i) {
    if (layer_supply_) layer_supply_->bring(i);
    const auto& layer = *model_->layers[static_cast<size_t>(i)];
    hidden = cached
                 ? layer.forward(std::move(hidden), tables, *cached, i)
                 : layer.forward(std::move(hidden), tables, pass.key_mask, share, pass.documents);
    if (contains(request.layer_outputs, i)) outputs.layer_outputs[i] = hidden;
  }
  if (request.last_hidden_prenorm) outputs.last_hidden_prenorm = hidden;
  if (request.last_hidden) outputs.last_hidden = final_norm(hidden);
  return outputs;
}

}  // namespace outrider
