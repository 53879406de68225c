#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <utility>

#include "device.h"
#include "outrider/model/llama.h"
#include "outrider/model/model_config.h"
#include "outrider/nn/decoder_layer.h"

namespace outrider::testing {
namespace {

ModelConfig tiny_config() {
  return ModelConfig::from_json(Json{{"architectures", {"LlamaForCausalLM"}},
                                     {"model_type", "llama"},
                                     {"vocab_size", 503},
                                     {"hidden_size", 256},
                                     {"intermediate_size", 384},
                                     {"num_hidden_layers", 3},
                                     {"num_attention_heads", 4},
                                     {"num_key_value_heads", 2},
                                     {"head_dim", 64},
                                     {"max_position_embeddings", 128},
                                     {"rms_norm_eps", 1e-5},
                                     {"tie_word_embeddings", false}},
                                "tiny config");
}

void randomize(LlamaForCausalLM& model) {
  const at::NoGradGuard no_grad;
  for (auto& parameter : model.parameters()) {
    if (parameter.dim() == 2) parameter.normal_(0, 0.08);
  }
}

// The same values on the device, in another type.
std::shared_ptr<LlamaForCausalLM> device_copy(const LlamaForCausalLM& model, at::ScalarType type) {
  const at::NoGradGuard no_grad;
  auto copy =
      std::make_shared<LlamaForCausalLM>(model.config(), at::TensorOptions(at::kCUDA).dtype(type));
  auto parameters = copy->named_parameters();
  for (const auto& item : model.named_parameters()) parameters[item.key()].copy_(item.value());
  return copy;
}

at::Tensor logits_of(CausalLM& model, const at::Tensor& ids, const at::Tensor& attention_mask) {
  const at::NoGradGuard no_grad;
  ForwardInput input;
  input.batch.input_ids = ids.to(model.device());
  if (attention_mask.defined()) input.batch.attention_mask = attention_mask.to(model.device());
  input.want_logits = true;
  return model.forward(input).logits;
}

}  // namespace

TEST_CASE("a layer writes over an input that it is given for good, and over no other") {
  at::manual_seed(21);
  const nn::DecoderLayerShape shape{{256, 256, 4, 2, 64}, 384};
  const nn::DecoderLayer layer(shape, at::TensorOptions(at::kCUDA).dtype(at::kFloat));
  const at::NoGradGuard no_grad;
  for (auto& parameter : layer.parameters()) {
    if (parameter.dim() == 2) at::Tensor(parameter).normal_(0, 0.08);
  }
  nn::RotaryEmbedding rotary(RopeConfig{}, 64);
  const auto tables = rotary.tables(
      at::arange(40, at::TensorOptions(at::kCUDA).dtype(at::kLong)).unsqueeze(0), at::kFloat);
  const auto x = at::randn({2, 40, 256}, at::kCUDA), before = x.clone();
  const auto kept = layer.forward(x, tables, {});
  CHECK(at::equal(x, before));
  const auto view = x.slice(0, 0, 2);
  CHECK(at::equal(layer.forward(x.slice(0, 0, 2), tables, {}), kept));
  CHECK(at::equal(view, before));
  auto given = x.clone();
  const auto* place = given.const_data_ptr();
  const auto made = layer.forward(std::move(given), tables, {});
  CHECK(made.const_data_ptr() == place);
  CHECK(difference(made, kept, 1) < 1e-5);
}

TEST_CASE("a llama on the device gives the cpu's logits") {
  at::manual_seed(14);
  LlamaForCausalLM model(tiny_config(), at::TensorOptions(at::kCPU).dtype(at::kFloat));
  randomize(model);
  const auto ids = at::randint(0, 503, {3, 75}, at::kLong);
  auto padding = at::ones({3, 75}, at::kLong);
  padding.slice(1, 60)[2].fill_(0);
  for (const auto& mask : {at::Tensor(), padding}) {
    const auto expected = logits_of(model, ids, mask);
    const auto exact = logits_of(*device_copy(model, at::kFloat), ids, mask);
    const auto rounded = logits_of(*device_copy(model, at::kBFloat16), ids, mask);
    const auto real = mask.defined() ? mask.to(at::kFloat).unsqueeze(-1) : at::ones({3, 75, 1});
    CHECK(difference(exact.cpu() * real, expected * real) < 1e-4);
    CHECK(difference(rounded.cpu().to(at::kFloat) * real, expected * real) < 6e-2);
  }
}

}  // namespace outrider::testing
