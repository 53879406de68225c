#pragma once

#include <memory>
#include <string>
#include <vector>

#include "draft/eagle_draft.h"
#include "eagle_base.h"
#include "eagle_mode.h"
#include "outrider/model/llama.h"
#include "tensor_checks.h"

/// Models with drafts of every kind that trains on the base's own states.
namespace outrider::testing::eagle_cases {

inline constexpr int64_t kVocabulary = 13, kHidden = 8, kLayers = 7, kBatch = 2;

struct Case {
  std::string name;
  Json config = Json::object(), architecture = Json::object();
  int64_t length = 13;
  bool reduced_vocabulary = false, labelled = false;
};

inline std::shared_ptr<CausalLM> base_model() {
  auto json = small_base(kVocabulary, kHidden, kLayers);
  json["max_position_embeddings"] = 4;
  const auto config = ModelConfig::from_json(json, "config.json");
  return std::make_shared<LlamaForCausalLM>(config, at::TensorOptions().dtype(at::kDouble));
}

inline Conversion conversion_of(const Case& c, BaseInfo base) {
  if (c.reduced_vocabulary) base.draft_vocabulary = at::tensor({1, 2, 5, 8, 11}, at::kLong);
  Json architecture = {{"intermediate_size", 12},
                       {"num_attention_heads", 4},
                       {"num_key_value_heads", 2},
                       {"head_dim", 4}};
  architecture.update(c.architecture);
  Json config = {{"eagle_architecture_config", architecture}};
  config.update(c.config);
  return eagle::EagleMode().convert(base, config);
}

inline std::shared_ptr<CausalLM> model_of(const Case& c) {
  auto model = base_model();
  model->attach(conversion_of(c, model->base_info()), {});
  const at::NoGradGuard no_grad;
  uint64_t seed = 1000;
  for (auto& item : model->named_parameters()) {
    const bool is_norm = item.key().find("norm") != std::string::npos;
    item.value().copy_(random(item.value().sizes(), ++seed) * 0.4 + (is_norm ? 1.0 : 0.0));
  }
  model->speculative_state().front().draft->train();
  return model;
}

inline const Json kNone = Json::object();
inline const Json kEagle3 = {{"use_aux_hidden_state", true}, {"use_last_layernorm", true}};

inline Json with(Json json, const Json& more) {
  json.update(more);
  return json;
}

inline std::vector<Case> cases() {
  const Json five = {{"eagle_ttt_steps", 5}}, one = {{"eagle_ttt_steps", 1}};
  return {
      {"EAGLE-3", kNone, kEagle3},
      {"one step", one, kEagle3},
      {"more steps", five, kEagle3},
      {"sequences shorter than the steps", five, kEagle3, 3},
      {"sequences that divide evenly", kNone, kEagle3, 16},
      {"two layers", kNone, with(kEagle3, {{"num_hidden_layers", 2}})},
      {"one key head", kNone, with(kEagle3, {{"num_key_value_heads", 1}})},
      {"parallel heads", kNone, with(kEagle3, {{"parallel_draft_step", 3}, {"has_lm_head", true}})},
      {"a part of the vocabulary", kNone, kEagle3, 13, true},
      {"hard labels", {{"eagle_self_logit_distillation", false}}, kEagle3, 13, false, true},
      {"a rotary embedding that goes by the length",
       {{"eagle_export_rope_scaling", Json::object()}},
       with(kEagle3, {{"rope_scaling",
                       {{"rope_type", "dynamic"}, {"factor", 2.0}, {"rope_theta", 10000}}}})},
      {"EAGLE-1", kNone, kNone},
      {"EAGLE-MTP", kNone, {{"use_last_layernorm", true}, {"use_mtp_layernorm", true}}}};
}

}  // namespace outrider::testing::eagle_cases
