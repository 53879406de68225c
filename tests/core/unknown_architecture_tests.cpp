// What is said about a config.json of a family that is not known.
#include <doctest/doctest.h>

#include "outrider/error.h"
#include "outrider/model/base_model_registry.h"
#include "outrider/model/model_config.h"
#include "tensor_checks.h"

namespace outrider::testing {
namespace {

std::string refusal_of(const Json& config) {
  return failure(ErrorCode::kUnknownArchitecture, [&] {
    BaseModelRegistry::instance().create(ModelConfig::from_json(config, "config.json"), at::kMeta);
  });
}

Json llama_like(const char* architecture) {
  return {{"architectures", {architecture}}, {"vocab_size", 96},       {"hidden_size", 32},
          {"intermediate_size", 48},         {"num_hidden_layers", 2}, {"num_attention_heads", 4}};
}

Json with(Json config, const Json& more) {
  config.update(more);
  return config;
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

TEST_CASE("a misspelt architecture is told from another family") {
  const std::pair<const char*, const char*> misspelt[] = {
      {"LamaForCausalLM", "LlamaForCausalLM"},
      {"MisrtalForCausalLM", "MistralForCausalLM"},
      {"Qwen3ForCasualLM", "Qwen3ForCausalLM"},
      {"phi3ForCausalLM", "Phi3ForCausalLM"}};
  for (const auto& [given, meant] : misspelt) {
    CAPTURE(given);
    CHECK_CONTAINS(refusal_of(llama_like(given)), "did you mean '" + std::string(meant) + "'?");
  }
  for (const char* family : {"Mixtral", "Minstral", "Phi", "Phi4", "Qwen", "Qwen3Moe", "Llama4",
                             "Gemma", "Olmo2", "Ministral", "Phi3V"}) {
    CAPTURE(family);
    const auto text = refusal_of(llama_like((family + std::string("ForCausalLM")).c_str()));
    const bool is_slip = std::string(family) == "Minstral";
    CHECK(holds(text, "did you mean") == is_slip);
    CHECK(holds(text, "docs/adding_a_base_model.md") != is_slip);
  }
}

TEST_CASE("a name that its model type confirms is no misspelling") {
  const auto config = with(llama_like("MistrtalForCausalLM"), {{"model_type", "mistrtal"}});
  CHECK_FALSE(holds(refusal_of(config), "did you mean"));
  CHECK(holds(refusal_of(llama_like("MistrtalForCausalLM")), "did you mean 'MistralForCausalLM'?"));
}

TEST_CASE("a known family with another head is told apart") {
  for (const char* name : {"LlamaForSequenceClassification", "LlamaModel"}) {
    const auto text = refusal_of(llama_like(name));
    CHECK_CONTAINS(text, "of this family LlamaForCausalLM is known");
    CHECK_FALSE(holds(text, "did you mean"));
  }
}

TEST_CASE("experts are named, and no other family is suggested") {
  const auto text = refusal_of(with(llama_like("LlamMaForCausalLM"), {{"num_local_experts", 8}}));
  CHECK_CONTAINS(text, "mixtures of experts ('num_local_experts' is 8)");
  CHECK_CONTAINS(text, "known are: LlamaForCausalLM, ");
  CHECK_FALSE(holds(text, "did you mean"));
}

TEST_CASE("the text model of a multimodal one is named, with how to get it where it is known") {
  struct Row {
    const char* architecture;
    Json more;
    const char *named, *architecture_of_text;
  };
  const Row rows[] = {
      {"Mistral3ForConditionalGeneration",
       {{"text_config", {{"model_type", "mistral"}}}},
       "mistral",
       "MistralForCausalLM"},
      {"LlavaForConditionalGeneration",
       {{"text_config", {{"architectures", {"LlamaForCausalLM"}}}}},
       "LlamaForCausalLM",
       "LlamaForCausalLM"},
      {"InternVLChatModel",
       {{"llm_config", {{"architectures", {"Qwen2ForCausalLM"}}, {"model_type", "qwen2"}}}},
       "Qwen2ForCausalLM",
       "Qwen2ForCausalLM"},
      {"Qwen2_5OmniModel",
       {{"thinker_config", {{"text_config", {{"model_type", "qwen3_vl_text"}}}}}},
       "qwen3_vl_text",
       "Qwen3ForCausalLM"},
      {"Qwen2_5_VLForConditionalGeneration",
       {{"vision_config", Json::object()}},
       "Qwen2_5_VLForConditionalGeneration",
       "Qwen2ForCausalLM"},
      {"Gemma3ForConditionalGeneration",
       {{"text_config", {{"model_type", "gemma3_text"}}}},
       "gemma3_text",
       ""},
      {"Llama4ForConditionalGeneration",
       {{"text_config", {{"model_type", "llama4_text"}, {"num_local_experts", 16}}}},
       "llama4_text",
       ""}};
  for (const auto& row : rows) {
    CAPTURE(row.architecture);
    const auto text = refusal_of(with({{"architectures", {row.architecture}}}, row.more));
    const std::string name = "its text model '" + std::string(row.named) + "' is ";
    const bool is_known = *row.architecture_of_text != '\0';
    CHECK_CONTAINS(
        text, name + (is_known ? "known, as " : "not known either") + row.architecture_of_text);
    CHECK(holds(text, "save the text model as a ") == is_known);
    CHECK(holds(text, "'num_local_experts' is 16") == holds(text, "llama4"));
  }
}

TEST_CASE("an architecture that is unknown and quantised is told to be both") {
  const Json quantised = {{"quantization_config", {{"quant_method", "mxfp4"}}}};
  const auto text = refusal_of(with(llama_like("GptOssForCausalLM"), quantised));
  CHECK_CONTAINS(text, "'GptOssForCausalLM' is not known: 'quantization_config' says 'mxfp4'");
  const Json inside = {{"text_config", with(quantised, {{"model_type", "mistral"}})}};
  CHECK_CONTAINS(
      refusal_of(with({{"architectures", {"Mistral3ForConditionalGeneration"}}}, inside)),
      "'quantization_config' says 'mxfp4'");
}

TEST_CASE("a config of any form is no more than unknown") {
  for (const Json& odd : {Json(7), Json("text"), Json::array({1}), Json(nullptr)}) {
    CAPTURE(odd.dump());
    const Json config = {{"architectures", {"OddForCausalLM"}},
                         {"text_config", odd},
                         {"vision_config", odd},
                         {"thinker_config", odd},
                         {"num_experts", odd},
                         {"model_type", odd}};
    CHECK_CONTAINS(refusal_of(config), "base architecture 'OddForCausalLM' is not known");
  }
}

}  // namespace
}  // namespace outrider::testing
