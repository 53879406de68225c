#include <string>
#include <vector>

#include "outrider/model/base_model_registry.h"
#include "outrider/model/model_config.h"
#include "tensor_checks.h"

namespace outrider::testing {
namespace {

Json good_config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 96},
          {"hidden_size", 32},
          {"intermediate_size", 64},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 1000.0},
          {"attention_bias", true},
          {"tie_word_embeddings", true},
          {"torch_dtype", "bfloat16"},
          {"bos_token_id", 1}};
}

ModelConfig parse(const Json& json) { return ModelConfig::from_json(json, "folder/config.json"); }

Json with(const char* key, Json value) {
  auto json = good_config();
  json[key] = std::move(value);
  return json;
}

Json without(const char* key) {
  auto json = good_config();
  json.erase(key);
  return json;
}

std::string refusal(const Json& json, ErrorCode code = ErrorCode::kInvalidConfig) {
  return failure(code, [&] { parse(json); });
}

TEST_CASE("a Llama config is read with its values") {
  const auto config = parse(good_config());
  CHECK(config.architecture == "LlamaForCausalLM");
  CHECK(config.model_type == "llama");
  CHECK(config.vocab_size == 96);
  CHECK(config.hidden_size == 32);
  CHECK(config.intermediate_size == 64);
  CHECK(config.num_hidden_layers == 3);
  CHECK(config.num_attention_heads == 4);
  CHECK(config.num_key_value_heads == 2);
  CHECK(config.head_dim == 8);
  CHECK(config.max_position_embeddings == 512);
  CHECK(config.rms_norm_eps == 1e-5);
  CHECK(config.attention_bias);
  CHECK_FALSE(config.mlp_bias);
  CHECK(config.tie_word_embeddings);
  CHECK((config.dtype == at::kBFloat16));
  CHECK(config.rope.theta == 1000.0);
  CHECK(config.rope.max_position_embeddings == 512);
  CHECK(config.raw["bos_token_id"] == 1);
}

TEST_CASE("absent and null keys have transformers' defaults") {
  auto json = good_config();
  for (const char* key : {"max_position_embeddings", "rms_norm_eps", "rope_theta", "attention_bias",
                          "tie_word_embeddings", "torch_dtype", "model_type"}) {
    json.erase(key);
  }
  json["num_key_value_heads"] = nullptr;
  json["head_dim"] = nullptr;
  json["rope_scaling"] = nullptr;
  json["quantization_config"] = nullptr;
  const auto config = parse(json);
  CHECK(config.num_key_value_heads == 4);
  CHECK(config.head_dim == 8);
  CHECK(config.max_position_embeddings == 2048);
  CHECK(config.rms_norm_eps == 1e-6);
  CHECK(config.rope.theta == 10000.0);
  CHECK(config.rope.type == "default");
  CHECK_FALSE(config.tie_word_embeddings);
  CHECK((config.dtype == at::kFloat));
}

TEST_CASE("transformers 5's name of the dtype wins over the older one") {
  CHECK((parse(with("dtype", "float16")).dtype == at::kHalf));
}

TEST_CASE("each missing key is named") {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "architectures"}) {
    const auto text = refusal(without(key));
    CHECK_CONTAINS(text, "folder/config.json: '" + std::string(key) + "' is missing");
  }
}

TEST_CASE("all problems are listed at once") {
  auto json = good_config();
  json.erase("vocab_size");
  json["hidden_size"] = "32";
  json["num_hidden_layers"] = -1;
  json["rms_norm_eps"] = "small";
  json["mlp_bias"] = 1;
  json["torch_dtype"] = "int4";
  const auto text = refusal(json);
  for (const char* part :
       {"'vocab_size' is missing", "'hidden_size' is \"32\", expected an integer",
        "'num_hidden_layers' is -1, expected 0 to 4096",
        "'rms_norm_eps' is \"small\", expected a number", "'mlp_bias' is 1, expected true or false",
        "'int4' is no supported dtype"}) {
    CHECK_CONTAINS(text, part);
  }
}

TEST_CASE("what Outrider does not compute is refused") {
  CHECK_CONTAINS(refusal(with("quantization_config", {{"quant_method", "fp8"}})),
                 "quantised bases are not supported");
  CHECK_CONTAINS(refusal(with("num_key_value_heads", 3)),
                 "'num_attention_heads' (4) is no multiple of 'num_key_value_heads' (3)");
  CHECK_CONTAINS(refusal(with("head_dim", 7)), "'head_dim' must be even");
  CHECK_CONTAINS(refusal(with("architectures", Json::array())), "'architectures' is missing");
  CHECK_CONTAINS(refusal(with("vocab_size", 1.5)), "'vocab_size' is 1.5, expected an integer");
  CHECK_CONTAINS(refusal(Json::array()), "not a JSON object");
}

TEST_CASE("text of a config reaches the terminal without control characters") {
  const auto text = refusal(with("torch_dtype", "fl\x1b[31moat"));
  CHECK_CONTAINS(text, "'dtype': 'fl");
  CHECK(text.find('\x1b') == std::string::npos);
}

TEST_CASE("the rotary embedding may be spelled in both ways") {
  const Json llama3 = {{"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 64}};
  auto older = llama3, newer = llama3;
  older["type"] = "llama3";
  newer["rope_type"] = "llama3";
  newer["rope_theta"] = 1000.0;
  auto json = without("rope_theta");
  json["rope_parameters"] = newer;
  for (const auto& config : {parse(with("rope_scaling", older)), parse(json)}) {
    CHECK(config.rope.type == "llama3");
    CHECK(config.rope.theta == 1000.0);
    CHECK(config.rope.parameters["factor"] == 8.0);
  }
}

TEST_CASE("an unknown rope type is unsupported, with the names that are known") {
  const auto text =
      refusal(with("rope_scaling", {{"rope_type", "mrope"}}), ErrorCode::kUnsupported);
  CHECK_CONTAINS(text, "rope type 'mrope' is not known");
  CHECK_CONTAINS(refusal(with("rope_scaling", {{"rope_type", "lama3"}}), ErrorCode::kUnsupported),
                 "did you mean 'llama3'");
}

TEST_CASE("the parameters of a rope type are checked, all of them at once") {
  const auto text = refusal(
      with("rope_scaling", {{"rope_type", "llama3"}, {"factor", 0.0}, {"low_freq_factor", "one"}}));
  for (const char* part :
       {"folder/config.json, rope parameters", "'factor' must be positive",
        "'low_freq_factor' is \"one\", expected a number", "'high_freq_factor' is missing",
        "'original_max_position_embeddings' is missing"}) {
    CHECK_CONTAINS(text, part);
  }
  CHECK_CONTAINS(refusal(with("rope_scaling", 3)), "'rope_scaling' is no object");
  CHECK_CONTAINS(refusal(with("partial_rotary_factor", 1.5)),
                 "'partial_rotary_factor' must be above 0 and at most 1");
  CHECK_CONTAINS(refusal(with("rope_theta", 0.5)), "'rope_theta' must be above 1");
}

TEST_CASE("longrope needs a list of positive factors for either length") {
  const auto text =
      refusal(with("rope_scaling", {{"rope_type", "longrope"}, {"short_factor", {1.0, -1.0}}}));
  CHECK_CONTAINS(text, "'short_factor' must be a list of positive numbers");
  CHECK_CONTAINS(text, "'long_factor' must be a list of positive numbers");
}

TEST_CASE("the original length of a longrope may stand beside it, or be the whole length") {
  const Json rope = {{"type", "longrope"}, {"short_factor", {1.0}}, {"long_factor", {2.0}}};
  const auto length = [](const Json& json) {
    return parse(json).rope.parameters.at("original_max_position_embeddings").get<int64_t>();
  };
  auto json = with("rope_scaling", rope);
  CHECK(length(json) == parse(json).max_position_embeddings);
  json["original_max_position_embeddings"] = 77;
  CHECK(length(json) == 77);
  json["rope_scaling"]["original_max_position_embeddings"] = 33;
  CHECK(length(json) == 33);
  json["architectures"] = {"Phi3ForCausalLM"};  // whose own key wins
  CHECK(length(json) == 77);
  json.erase("original_max_position_embeddings");
  CHECK(length(json) == 4096);
}

TEST_CASE("an unknown architecture names the known ones") {
  auto config = parse(with("architectures", {"LlamaForCasualLM"}));
  const auto& registry = BaseModelRegistry::instance();
  const auto text = failure(ErrorCode::kUnknownArchitecture,
                            [&] { registry.create(config, at::TensorOptions()); });
  CHECK_CONTAINS(text, "base architecture 'LlamaForCasualLM' is not known");
  CHECK_CONTAINS(text, "did you mean 'LlamaForCausalLM'");
  config.architecture = "MambaModel";
  CHECK_CONTAINS(failure(ErrorCode::kUnknownArchitecture,
                         [&] { registry.create(config, at::TensorOptions()); }),
                 "known are: LlamaForCausalLM");
}

TEST_CASE("an architecture can be added once") {
  BaseModelRegistry registry;
  const auto factory = [](const ModelConfig&, at::TensorOptions) -> std::shared_ptr<CausalLM> {
    return nullptr;
  };
  registry.add("Mine", factory);
  CHECK(registry.names() == std::vector<std::string>{"Mine"});
  CHECK_CONTAINS(failure(ErrorCode::kPluginConflict, [&] { registry.add("Mine", factory); }),
                 "base architecture 'Mine' is registered already");
}

}  // namespace
}  // namespace outrider::testing
