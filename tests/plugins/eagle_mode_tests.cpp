#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "config/architecture.h"
#include "config/eagle_schema.h"
#include "eagle_mode.h"
#include "tensor_checks.h"

namespace outrider::testing::mode_tests {
namespace {

ModelConfig base_config(int64_t num_layers = 12) {
  return ModelConfig::from_json({{"architectures", {"LlamaForCausalLM"}},
                                 {"vocab_size", 40},
                                 {"hidden_size", 16},
                                 {"intermediate_size", 24},
                                 {"num_hidden_layers", num_layers},
                                 {"num_attention_heads", 4},
                                 {"num_key_value_heads", 2},
                                 {"head_dim", 6},
                                 {"rms_norm_eps", 1e-4},
                                 {"max_position_embeddings", 333},
                                 {"rope_theta", 777.0},
                                 {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}},
                                "config.json");
}

BaseInfo info_of(const ModelConfig& config, const std::string& numerics = "") {
  BaseInfo base{config,           "LlamaForCausalLM",       at::kFloat,
                at::kCPU,         config.num_hidden_layers, config.hidden_size,
                config.vocab_size};
  base.reference_numerics = numerics;
  return base;
}

Json small(Json extra = Json::object()) {
  Json architecture = {{"intermediate_size", 8},
                       {"num_attention_heads", 2},
                       {"num_key_value_heads", 1},
                       {"head_dim", 4}};
  architecture.update(extra);
  return {{"eagle_architecture_config", architecture}};
}

Conversion convert(const Json& config, const std::string& numerics = "") {
  const auto base = base_config();
  return eagle::EagleMode().convert(info_of(base, numerics), config);
}

std::string refusal(ErrorCode code, const Json& config) {
  return failure(code, [&] { convert(config); });
}

TEST_CASE("every preset is a valid config of the mode") {
  std::vector<std::string> names;
  for (const auto& preset : eagle::EagleMode().presets()) {
    CAPTURE(preset.name);
    names.push_back(preset.name);
    const auto resolved = eagle::eagle_schema().resolve(preset.overrides);
    for (const auto& [key, value] : preset.overrides.items()) CHECK(resolved[key] == value);
    CHECK(resolved["eagle_ttt_steps"] == 3);
    CHECK_FALSE(preset.description.empty());
  }
  CHECK(names == std::vector<std::string>{"eagle3", "EAGLE3_DEFAULT_CFG", "EAGLE1_DEFAULT_CFG",
                                          "EAGLE_MTP_DEFAULT_CFG"});
}

TEST_CASE("the schema has ModelOpt's defaults") {
  const auto defaults = eagle::eagle_schema().resolve(Json::object());
  CHECK(defaults["eagle_ttt_steps"] == 3);
  CHECK(defaults["eagle_loss_decay_factor"] == 0.9);
  CHECK(defaults["eagle_decoder_type"] == "llama");
  CHECK(defaults["eagle_freeze_base_model"] == true);
  CHECK(defaults["eagle_loss"] == "cross_entropy");
  CHECK(defaults["eagle_architecture_config"] == Json::object());
  CHECK(
      defaults["eagle_export_rope_scaling"] ==
      Json({{"rope_type", "yarn"}, {"factor", 32.0}, {"original_max_position_embeddings", 2048}}));
  CHECK(defaults["eagle_base_lora_target_modules"].is_null());
  CHECK(defaults["eagle_base_lora_logits_detach_prob"] == 0.5);
  CHECK(defaults.size() == 23);
  for (const auto& field : eagle::eagle_schema().fields()) {
    CHECK(field.extension == (field.name == "eagle_loss"));
  }
}

TEST_CASE("unknown fields and types are refused together") {
  const auto text = failure(ErrorCode::kInvalidConfig, [] {
    eagle::eagle_schema().resolve(
        {{"eagle_tt_steps", 3}, {"eagle_decoder_type", 1}, {"eagle_ttt_steps", "few"}});
  });
  for (const char* part : {"eagle_tt_steps", "eagle_ttt_steps", "few", "eagle_decoder_type"}) {
    CHECK_CONTAINS(text, part);
  }
}

TEST_CASE("values that no conversion can honour are in the schema, and refused together") {
  const Json values = {{"eagle_decoder_type", "mamba"}, {"eagle_ttt_steps", 65}};
  CHECK(eagle::eagle_schema().resolve(values)["eagle_ttt_steps"] == 65);
  auto config = small();
  config.update(values);
  const auto text = refusal(ErrorCode::kInvalidConfig, config);
  CHECK_CONTAINS(text, "/eagle_decoder_type: got 'mamba', expected 'llama'");
  CHECK_CONTAINS(text, "/eagle_ttt_steps: got 65, expected 1 to 64");
  config.update({{"eagle_decoder_type", "llama"}, {"eagle_ttt_steps", 64}});
  CHECK_NOTHROW(convert(config));
}

TEST_CASE("the adapters' modules are any list") {
  const Json modules = {"q_proj", nullptr, 1};
  const auto config = eagle::eagle_schema().parse({{"eagle_base_lora_target_modules", modules}});
  CHECK(eagle::eagle_schema().dump(config)["eagle_base_lora_target_modules"] == modules);
}

TEST_CASE("an export rope needs training with the default rope") {
  for (const char* key : {"rope_type", "type"}) {
    const auto config = small({{"rope_scaling", {{key, "linear"}, {"factor", 2.0}}}});
    const auto text = refusal(ErrorCode::kInvalidConfig, config);
    CHECK_CONTAINS(text, "eagle_export_rope_scaling");
    CHECK_CONTAINS(text, "trains with rope type 'linear'");
    auto empty = config;
    empty["eagle_export_rope_scaling"] = Json::object();
    CHECK_NOTHROW(convert(empty));
  }
  CHECK_NOTHROW(convert(small({{"rope_scaling", {{"rope_type", "default"}}}})));
}

TEST_CASE("the preset eagle3 takes every size and the rope from the base") {
  const auto preset = eagle::EagleMode().presets().front();
  REQUIRE(preset.name == "eagle3");
  const auto conversion = convert(preset.overrides);
  const auto& architecture = conversion.config["eagle_architecture_config"];
  CHECK(architecture["hidden_size"] == 16);
  CHECK(architecture["vocab_size"] == 40);
  CHECK(architecture["draft_vocab_size"] == 40);
  CHECK(architecture["max_position_embeddings"] == 333);
  CHECK(architecture["intermediate_size"] == 24);
  CHECK(architecture["num_attention_heads"] == 4);
  CHECK(architecture["num_key_value_heads"] == 2);
  CHECK(architecture["head_dim"] == 6);
  CHECK(architecture["rms_norm_eps"] == 1e-4);
  CHECK(architecture["rope_theta"] == 777.0);
  CHECK(architecture["rope_scaling"]["rope_type"] == "linear");
  CHECK(architecture["rope_scaling"]["factor"] == 2.0);
  CHECK(architecture["use_last_layernorm"] == true);
}

TEST_CASE("what the user gives wins over the base's sizes") {
  auto config = small({{"head_dim", 10}});
  config["eagle_reuse_base_decoder"] = true;
  config["eagle_export_rope_scaling"] = Json::object();
  const auto architecture = convert(config).config["eagle_architecture_config"];
  CHECK(architecture["head_dim"] == 10);
  CHECK(architecture["intermediate_size"] == 8);
  CHECK(architecture["rms_norm_eps"] == 1e-4);
}

TEST_CASE("without the base's sizes ModelOpt's defaults hold") {
  const auto architecture = convert(small()).config["eagle_architecture_config"];
  CHECK(architecture["rms_norm_eps"] == 1e-5);
  CHECK(architecture["rope_scaling"] == Json({{"rope_type", "default"}, {"rope_theta", 10000}}));
  CHECK(architecture["max_position_embeddings"] == 333);
  CHECK(architecture["num_hidden_layers"] == 1);
}

TEST_CASE("a key that nothing reads is noted with what it may have meant") {
  const auto notes = convert(small({{"num_hiden_layers", 2}})).notes;
  const auto note = std::find_if(notes.begin(), notes.end(), [](const std::string& text) {
    return text.find("eagle_architecture_config.num_hiden_layers is not read") != text.npos;
  });
  REQUIRE(note != notes.end());
  CHECK_CONTAINS(*note, "did you mean 'num_hidden_layers'");
}

std::vector<int64_t> layers_read(int64_t num_layers, Json extra = Json::object()) {
  const auto base = base_config(num_layers);
  const auto conversion = eagle::EagleMode().convert(info_of(base), small(extra));
  const auto ids = conversion.draft->hidden_states_needed().layer_outputs;
  CHECK(conversion.metadata["aux_layer_ids"] == Json(ids));
  return ids;
}

TEST_CASE("the layers that are read are the second, one before the middle and the fourth last") {
  using Ids = std::vector<int64_t>;
  CHECK(layers_read(7) == Ids{1, 2, 3});
  CHECK(layers_read(8) == Ids{1, 3, 4});
  CHECK(layers_read(12) == Ids{1, 5, 8});
  CHECK(layers_read(30) == Ids{1, 14, 26});
  CHECK(layers_read(2) == Ids{0, 1});
  CHECK(layers_read(12, {{"eagle_aux_hidden_state_layer_ids", {11, 0, 11}}}) == Ids{0, 11});
}

TEST_CASE("layers that the base has not are refused") {
  CHECK_CONTAINS(failure(ErrorCode::kInvalidConfig, [] { layers_read(1); }),
                 "the base has 1 layers (0 to 0)");
  for (const int64_t wrong : {12, -1}) {
    const auto text = failure(ErrorCode::kInvalidConfig, [&] {
      layers_read(12, {{"eagle_aux_hidden_state_layer_ids", {wrong}}});
    });
    CHECK_CONTAINS(text, "eagle reads the layers [" + std::to_string(wrong) + "]");
    CHECK_CONTAINS(text, "eagle_aux_hidden_state_layer_ids");
  }
}

TEST_CASE("architectures that make no sense are refused by field") {
  const auto text = refusal(ErrorCode::kInvalidConfig, small({{"num_key_value_heads", 3}}));
  CHECK_CONTAINS(text, "num_attention_heads (2) must be a multiple of num_key_value_heads (3)");
  CHECK_CONTAINS(refusal(ErrorCode::kInvalidConfig, small({{"head_dim", 5}})), "head_dim (5) even");
  CHECK_CONTAINS(refusal(ErrorCode::kInvalidConfig, small({{"hidden_act", "gelu"}})), "hidden_act");
  CHECK_CONTAINS(refusal(ErrorCode::kInvalidConfig, small({{"attention_dropout", 0.1}})),
                 "attention_dropout");
  CHECK_CONTAINS(refusal(ErrorCode::kInvalidConfig, small({{"draft_vocab_size", 41}})),
                 "draft_vocab_size is 41, more than the base's 40");
  CHECK_CONTAINS(refusal(ErrorCode::kInvalidConfig, small({{"num_hidden_layers", "two"}})),
                 "num_hidden_layers");
}

TEST_CASE("a given draft vocabulary decides its size") {
  const auto config = base_config();
  auto base = info_of(config);
  base.draft_vocabulary = at::tensor({0, 3, 39}, at::kLong);
  const auto conversion = eagle::EagleMode().convert(base, small());
  CHECK(conversion.config["eagle_architecture_config"]["draft_vocab_size"] == 3);
  CHECK(conversion.metadata["draft_vocab_size"] == 3);
  CHECK_CLOSE(conversion.draft->named_buffers()["d2t"], at::tensor({0, 2, 37}, at::kLong), 0.0);
  const auto text = failure(ErrorCode::kInvalidConfig, [&] {
    eagle::EagleMode().convert(base, small({{"draft_vocab_size", 4}}));
  });
  CHECK_CONTAINS(text, "draft_vocab_size is 4, but the draft vocabulary that was given has 3");
}

TEST_CASE("what conversion does not support is refused by field") {
  for (const auto& [key, value] :
       std::map<std::string, Json>{{"eagle_decoder_type", "kimik2"},
                                   {"eagle_base_lora", true},
                                   {"eagle_hidden_state_distillation", true}}) {
    auto config = small();
    config[key] = value;
    CHECK_CONTAINS(refusal(ErrorCode::kUnsupported, config), key);
  }
  auto both = small();
  both["eagle_base_lora"] = both["eagle_hidden_state_distillation"] = true;
  const auto text = refusal(ErrorCode::kUnsupported, both);
  CHECK_CONTAINS(text, "eagle_base_lora");
  CHECK_CONTAINS(text, "eagle_hidden_state_distillation");
}

TEST_CASE("the draft has ModelOpt's names and shapes") {
  const auto base = base_config();
  auto info = info_of(base);
  info.draft_vocabulary = at::tensor({0, 3, 39}, at::kLong);
  const auto conversion = eagle::EagleMode().convert(info, small({{"num_hidden_layers", 2}}));
  CHECK(conversion.attribute == "eagle_module");
  std::map<std::string, std::vector<int64_t>> expected{{"fc.weight", {16, 48}},
                                                       {"norm.weight", {16}},
                                                       {"lm_head.weight", {3, 16}},
                                                       {"layers.0.hidden_norm.weight", {16}}};
  for (const int64_t i : {0, 1}) {
    const auto layer = "layers." + std::to_string(i) + ".";
    const int64_t input = i == 0 ? 32 : 16;
    expected[layer + "input_layernorm.weight"] = {16};
    expected[layer + "post_attention_layernorm.weight"] = {16};
    expected[layer + "self_attn.q_proj.weight"] = {8, input};
    expected[layer + "self_attn.k_proj.weight"] = {4, input};
    expected[layer + "self_attn.v_proj.weight"] = {4, input};
    expected[layer + "self_attn.o_proj.weight"] = {16, 8};
    expected[layer + "mlp.gate_proj.weight"] = {8, 16};
    expected[layer + "mlp.up_proj.weight"] = {8, 16};
    expected[layer + "mlp.down_proj.weight"] = {16, 8};
  }
  std::map<std::string, std::vector<int64_t>> actual;
  for (const auto& item : conversion.draft->named_parameters()) {
    actual[item.key()] = item.value().sizes().vec();
  }
  CHECK(actual == expected);
  CHECK(conversion.draft->named_buffers().keys() == std::vector<std::string>{"d2t"});
}

TEST_CASE("a conversion records its numerics and freezes as configured") {
  const auto own = convert(small());
  CHECK(own.metadata["reference_numerics"].is_null());
  CHECK((own.base_edits == std::vector<BaseEdit>{BaseEdit::kFreezeParameters}));
  CHECK(convert(small(), "0.47").metadata["reference_numerics"] == "0.47");
  auto trains = small();
  trains["eagle_freeze_base_model"] = false;
  CHECK(convert(trains).base_edits.empty());
}

TEST_CASE("a recorded conversion is restored with its layers and numerics") {
  const auto base = base_config();
  const auto converted = convert(small({{"draft_vocab_size", 7}}), "0.47");
  const auto restored =
      eagle::EagleMode().restore(info_of(base), converted.config, converted.metadata);
  CHECK(restored.metadata == converted.metadata);
  CHECK(restored.config == converted.config);
  CHECK(restored.draft->named_parameters().keys() == converted.draft->named_parameters().keys());
}

TEST_CASE("metadata that contradicts its config is refused") {
  const auto base = base_config();
  const auto converted = convert(small());
  const auto restore = [&](const Json& metadata) {
    return eagle::EagleMode().restore(info_of(base), converted.config, metadata);
  };
  auto layers = converted.metadata, numerics = converted.metadata;
  layers["aux_layer_ids"] = {1, 5, 9};
  CHECK_CONTAINS(failure(ErrorCode::kIncompatibleCheckpoint, [&] { restore(layers); }),
                 "trained on the layers [1,5,9], its config gives [1,5,8]");
  numerics["reference_numerics"] = 0.47;
  CHECK_CONTAINS(failure(ErrorCode::kInvalidFile, [&] { restore(numerics); }),
                 "'reference_numerics'");
}

}  // namespace
}  // namespace outrider::testing::mode_tests
