#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "outrider/model/base_model_registry.h"
#include "outrider/model/causal_lm.h"
#include "outrider/nn/rotary_embedding.h"
#include "tensor_checks.h"

namespace outrider::testing {
namespace {

constexpr int64_t kHidden = 8, kHeadDim = 6, kInner = 10, kVocabulary = 13;

Json config_of(const std::string& family, const Json& more = Json::object()) {
  Json json = {{"architectures", {family + "ForCausalLM"}},
               {"vocab_size", kVocabulary},
               {"hidden_size", kHidden},
               {"intermediate_size", kInner},
               {"num_hidden_layers", 2},
               {"num_attention_heads", 4},
               {"num_key_value_heads", 2},
               {"head_dim", kHeadDim}};
  json.update(more);
  return json;
}

using Shapes = std::map<std::string, std::vector<int64_t>>;

std::shared_ptr<CausalLM> build(const std::string& family, const Json& more = Json::object()) {
  const auto config = ModelConfig::from_json(config_of(family, more), "config.json");
  auto model = BaseModelRegistry::instance().create(config, at::TensorOptions(at::kDouble));
  const at::NoGradGuard no_grad;
  uint64_t seed = 0;
  for (auto& parameter : model->parameters()) {
    parameter.copy_(random(parameter.sizes(), ++seed) * 0.4);
  }
  return model;
}

at::Tensor logits(CausalLM& model, int64_t length = 7) {
  ForwardInput input;
  input.batch.input_ids = random_ids({2, length}, kVocabulary, 99);
  input.want_logits = true;
  return model.forward(input).logits;
}

Shapes shapes_of_layer(const std::string& family, const Json& more = Json::object()) {
  const std::string prefix = "model.layers.1.";
  Shapes shapes;
  for (const auto& item : build(family, more)->named_parameters()) {
    if (item.key().starts_with(prefix)) {
      shapes[item.key().substr(prefix.size())] = item.value().sizes().vec();
    }
  }
  return shapes;
}

const Shapes& llama_layer() {
  static const Shapes shapes = {
      {"input_layernorm.weight", {8}},      {"post_attention_layernorm.weight", {8}},
      {"self_attn.q_proj.weight", {24, 8}}, {"self_attn.k_proj.weight", {12, 8}},
      {"self_attn.v_proj.weight", {12, 8}}, {"self_attn.o_proj.weight", {8, 24}},
      {"mlp.gate_proj.weight", {10, 8}},    {"mlp.up_proj.weight", {10, 8}},
      {"mlp.down_proj.weight", {8, 10}}};
  return shapes;
}

Shapes merged(Shapes shapes, const Shapes& more) {
  shapes.insert(more.begin(), more.end());
  return shapes;
}

TEST_CASE("each family's parameters have transformers' names and shapes") {
  const Shapes qkv_bias = {{"self_attn.q_proj.bias", {24}},
                           {"self_attn.k_proj.bias", {12}},
                           {"self_attn.v_proj.bias", {12}}};
  const Shapes qk_norm = {{"self_attn.q_norm.weight", {6}}, {"self_attn.k_norm.weight", {6}}};
  const auto all_biases = merged(qkv_bias, {{"self_attn.o_proj.bias", {8}}});
  CHECK(shapes_of_layer("Llama") == llama_layer());
  CHECK(shapes_of_layer("Llama", {{"attention_bias", true}}) == merged(llama_layer(), all_biases));
  CHECK(shapes_of_layer("Mistral") == llama_layer());
  CHECK(shapes_of_layer("Qwen2") == merged(llama_layer(), qkv_bias));
  CHECK(shapes_of_layer("Qwen3") == merged(llama_layer(), qk_norm));
  CHECK(shapes_of_layer("Qwen3", {{"attention_bias", true}}) ==
        merged(merged(llama_layer(), qk_norm), all_biases));
  CHECK(shapes_of_layer("Phi3") == Shapes{{"input_layernorm.weight", {8}},
                                          {"post_attention_layernorm.weight", {8}},
                                          {"self_attn.qkv_proj.weight", {48, 8}},
                                          {"self_attn.o_proj.weight", {8, 24}},
                                          {"mlp.gate_up_proj.weight", {20, 8}},
                                          {"mlp.down_proj.weight", {8, 10}}});
}

TEST_CASE("a tied head has no parameter of its own") {
  for (const char* family : {"Llama", "Mistral", "Qwen2", "Qwen3", "Phi3"}) {
    CAPTURE(family);
    CHECK(build(family)->named_parameters().contains("lm_head.weight"));
    const auto tied = build(family, {{"tie_word_embeddings", true}});
    CHECK_FALSE(tied->named_parameters().contains("lm_head.weight"));
    CHECK(tied->head().weight().is_same(tied->named_parameters()["model.embed_tokens.weight"]));
  }
}

// Values of `from` where the names agree; the others are `fill`.
void copy_parameters(const CausalLM& from, CausalLM& to, double fill) {
  const at::NoGradGuard no_grad;
  const auto given = from.named_parameters();
  for (auto& item : to.named_parameters()) {
    const auto* source = given.find(item.key());
    source ? item.value().copy_(*source) : item.value().fill_(fill);
  }
}

void fuse(const CausalLM& llama, CausalLM& phi3) {
  copy_parameters(llama, phi3, 0.0);
  const at::NoGradGuard no_grad;
  const auto given = llama.named_parameters();
  auto fused = phi3.named_parameters();
  const auto join_rows = [&](const std::string& to, const std::vector<std::string>& parts) {
    std::vector<at::Tensor> rows;
    for (const auto& part : parts) rows.push_back(given[part]);
    fused[to].copy_(at::cat(rows));
  };
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    join_rows(layer + "self_attn.qkv_proj.weight",
              {layer + "self_attn.q_proj.weight", layer + "self_attn.k_proj.weight",
               layer + "self_attn.v_proj.weight"});
    join_rows(layer + "mlp.gate_up_proj.weight",
              {layer + "mlp.gate_proj.weight", layer + "mlp.up_proj.weight"});
  }
}

TEST_CASE("without their own features the families compute what Llama does") {
  const Json same = {{"rms_norm_eps", 1e-6}};
  const auto llama = build("Llama", same), mistral = build("Mistral", same),
             qwen2 = build("Qwen2", same), phi3 = build("Phi3", same);
  const auto expected = logits(*llama);
  copy_parameters(*llama, *mistral, 0.0);
  copy_parameters(*llama, *qwen2, 0.0);
  fuse(*llama, *phi3);
  CHECK_CLOSE(logits(*mistral), expected, 1e-13);
  CHECK_CLOSE(logits(*qwen2), expected, 1e-13);
  CHECK_CLOSE(logits(*phi3), expected, 1e-13);
}

TEST_CASE("a window hides from Mistral and Phi3 what is too far back") {
  for (const char* family : {"Mistral", "Phi3"}) {
    CAPTURE(family);
    const Json one_layer = {{"num_hidden_layers", 1}, {"sliding_window", 3}};
    const auto windowed = build(family, one_layer);
    const auto full = build(family, {{"num_hidden_layers", 1}, {"sliding_window", nullptr}});
    const auto near = logits(*windowed), far = logits(*full);
    CHECK_CLOSE(near.slice(1, 0, 3), far.slice(1, 0, 3), 1e-13);
    for (int64_t i = 3; i < 7; ++i) {
      CHECK(largest_difference(near.select(1, i), far.select(1, i)) > 1e-6);
    }
  }
}

TEST_CASE("Qwen3 normalises queries and keys, so that their scale is without effect") {
  const auto model = build("Qwen3");
  const auto before = logits(*model);
  {
    const at::NoGradGuard no_grad;
    model->named_parameters()["model.layers.0.self_attn.q_proj.weight"].mul_(1000.0);
    model->named_parameters()["model.layers.1.self_attn.k_proj.weight"].mul_(1000.0);
  }
  CHECK_CLOSE(logits(*model), before, 1e-4);
  const at::NoGradGuard no_grad;
  model->named_parameters()["model.layers.0.self_attn.q_norm.weight"].mul_(2.0);
  CHECK(largest_difference(logits(*model), before) > 1e-3);
}

TEST_CASE("gradients reach every parameter of every family") {
  for (const char* family : {"Llama", "Mistral", "Qwen2", "Qwen3", "Phi3"}) {
    const auto model = build(family, {{"sliding_window", family[0] == 'M' ? Json(3) : Json()}});
    logits(*model).sin().sum().backward();
    for (const auto& item : model->named_parameters()) {
      CAPTURE(family);
      CAPTURE(item.key());
      REQUIRE(item.value().grad().defined());
      CHECK(item.value().grad().isfinite().all().item<bool>());
      CHECK(item.value().grad().abs().max().item<double>() > 0.0);
    }
  }
}

TEST_CASE("a partial rotation turns the first dimensions and keeps the others") {
  const auto rope = RopeConfig::from_json({{"partial_rotary_factor", 0.5}}, "config.json",
                                          /*allow_partial_rotation=*/true);
  auto whole = rope;
  whole.partial_rotary_factor = 1.0;
  const auto positions = at::arange(5).unsqueeze(0);
  const auto x = random({1, 2, 5, 8}, 1);
  const auto rotated =
      nn::apply_rotary(x, nn::RotaryEmbedding(rope, 8).tables(positions, at::kDouble));
  const auto head = nn::RotaryEmbedding(whole, 4).tables(positions, at::kDouble);
  CHECK_CLOSE(rotated.slice(-1, 4), x.slice(-1, 4), 0.0);
  CHECK_CLOSE(rotated.slice(-1, 0, 4), nn::apply_rotary(x.slice(-1, 0, 4), head), 1e-15);
  CHECK_CONTAINS(failure(ErrorCode::kInvalidConfig, [&] { nn::RotaryEmbedding(rope, 6); }),
                 "'partial_rotary_factor' 0.5 of 'head_dim' 6 is 3 dimensions to rotate");
}

TEST_CASE("keys that are absent have the family's defaults") {
  const auto parse = [](const char* family) {
    auto json = config_of(family, {{"num_attention_heads", 32}, {"hidden_size", 64}});
    json.erase("num_key_value_heads");
    json.erase("head_dim");
    return ModelConfig::from_json(json, "config.json");
  };
  const auto mistral = parse("Mistral"), qwen3 = parse("Qwen3"), phi3 = parse("Phi3");
  CHECK(mistral.num_key_value_heads == 8);
  CHECK(mistral.head_dim == 2);
  CHECK(mistral.max_position_embeddings == 131072);
  CHECK(qwen3.num_key_value_heads == 32);
  CHECK(qwen3.head_dim == 128);
  CHECK(qwen3.rope.max_position_embeddings == 32768);
  CHECK(phi3.num_key_value_heads == 32);
  CHECK(phi3.rms_norm_eps == 1e-5);
  CHECK(phi3.max_position_embeddings == 4096);
}

std::string refusal(const std::string& family, const Json& more) {
  return failure(ErrorCode::kUnsupported, [&] { build(family, more); });
}

TEST_CASE("keys that change the computation are refused, all of them at once") {
  const Json strange = {{"attn_logit_softcapping", 50.0}, {"final_logit_softcapping", 30.0},
                        {"embedding_multiplier", 12},     {"num_local_experts", 8},
                        {"hidden_act", "gelu"},           {"partial_rotary_factor", 0.5}};
  const std::pair<const char*, Json> more[] = {
      {"Llama", {{"sliding_window", 5}, {"use_sliding_window", true}}},
      {"Mistral", {{"attention_bias", true}}},
      {"Qwen2", {{"mlp_bias", true}}},
      {"Qwen3", {{"mlp_bias", true}}}};
  for (const auto& [family, own] : more) {
    auto config = strange;
    config.update(own);
    const auto text = refusal(family, config);
    CHECK_CONTAINS(text, std::string(family) + "ForCausalLM: ");
    for (const char* part :
         {"'hidden_act' is \"gelu\", supported is \"silu\"",
          "'attn_logit_softcapping' is 50.0, supported is null",
          "'final_logit_softcapping' is 30.0", "'embedding_multiplier' is 12, supported is 1",
          "'num_local_experts' is 8", "'partial_rotary_factor' is 0.5, supported is 1"}) {
      CHECK_CONTAINS(text, part);
    }
    for (const auto& [key, value] : own.items()) {
      CHECK_CONTAINS(text, "'" + key + "' is " + value.dump());
    }
  }
}

TEST_CASE("neutral values of the same keys are accepted") {
  const Json neutral = {{"attn_logit_softcapping", nullptr},
                        {"embedding_multiplier", 1.0},
                        {"num_experts", 0},
                        {"use_mrope", false},
                        {"partial_rotary_factor", 1},
                        {"mlp_bias", false},
                        {"attention_bias", false},
                        {"use_sliding_window", false},
                        {"sliding_window", nullptr},
                        {"layer_types", {"full_attention", "full_attention"}}};
  for (const char* family : {"Llama", "Mistral", "Qwen2", "Qwen3", "Phi3"}) {
    CAPTURE(family);
    CHECK_NOTHROW(build(family, neutral));
  }
}

TEST_CASE("layer types have no meaning for Llama but full attention") {
  CHECK_CONTAINS(refusal("Llama", {{"layer_types", {"full_attention", "sliding_attention"}}}),
                 "'layer_types' is [\"full_attention\",\"sliding_attention\"], supported is "
                 "\"full_attention\"");
}

TEST_CASE("Phi3 has longrope under several names, and no other scaling") {
  const Json factors = {{"short_factor", {1.0, 1.5, 2.0}}, {"long_factor", {2.0, 4.0, 8.0}}};
  const auto with_type = [&](const char* type) {
    auto rope = factors;
    rope["type"] = type;
    return Json{{"rope_scaling", rope}};
  };
  const auto expected = logits(*build("Phi3", with_type("longrope")));
  CHECK_CLOSE(logits(*build("Phi3", with_type("su"))), expected, 1e-15);
  CHECK_CLOSE(logits(*build("Phi3", with_type("yarn"))), expected, 1e-15);
  CHECK_CONTAINS(refusal("Phi3", {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}),
                 "Phi3ForCausalLM with rope type 'linear': the family has default and longrope");
  CHECK(logits(*build("Phi3", {{"partial_rotary_factor", 0.67}})).isfinite().all().item<bool>());
}

TEST_CASE("rope parameters that nothing reads are refused") {
  const auto text = failure(ErrorCode::kInvalidConfig, [] {
    build("Qwen2", {{"rope_scaling", {{"type", "default"}, {"mrope_section", {2, 1}}}}});
  });
  CHECK_CONTAINS(text, "config.json, rope parameters: 'mrope_section' is not known");
  const Json by_layer_type = {{"full_attention", {{"rope_type", "default"}}}};
  CHECK_CONTAINS(failure(ErrorCode::kInvalidConfig,
                         [&] {
                           build("Qwen3", {{"rope_parameters", by_layer_type}});
                         }),
                 "'full_attention' is not known");
}

TEST_CASE("of an unknown family nothing else is said") {
  const Json gpt2 = {
      {"architectures", {"GPT2LMHeadModel"}}, {"n_embd", 768}, {"vocab_size", 50257}};
  CHECK_CONTAINS(failure(ErrorCode::kUnknownArchitecture,
                         [&] { ModelConfig::from_json(gpt2, "config.json"); }),
                 "base architecture 'GPT2LMHeadModel' is not known | known are: LlamaForCausalLM, "
                 "MistralForCausalLM, Phi3ForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM");
}

}  // namespace
}  // namespace outrider::testing
