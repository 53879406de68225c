#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/numerics.h"
#include "draft/eagle_draft.h"
#include "eagle_mode.h"
#include "outrider/model/llama.h"
#include "tensor_checks.h"
#include "thread_share.h"
#include "training_results.h"

namespace outrider::testing::eagle_sequence_tests {
namespace {

constexpr int64_t kVocabulary = 13, kHidden = 8, kLayers = 7, kBatch = 2;

struct Case {
  std::string name;
  Json config = Json::object(), architecture = Json::object();
  int64_t length = 13;
  bool reduced_vocabulary = false, labelled = false;
};

std::shared_ptr<CausalLM> base_model() {
  const auto config = ModelConfig::from_json({{"architectures", {"LlamaForCausalLM"}},
                                              {"vocab_size", kVocabulary},
                                              {"hidden_size", kHidden},
                                              {"intermediate_size", 12},
                                              {"num_hidden_layers", kLayers},
                                              {"num_attention_heads", 4},
                                              {"num_key_value_heads", 2},
                                              {"head_dim", 4},
                                              {"max_position_embeddings", 4}},
                                             "config.json");
  return std::make_shared<LlamaForCausalLM>(config, at::TensorOptions().dtype(at::kDouble));
}

Conversion conversion_of(const Case& c, BaseInfo base) {
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

std::shared_ptr<CausalLM> model_of(const Case& c) {
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

ForwardInput input_of(const Case& c) {
  ForwardInput input;
  auto& batch = input.batch;
  batch.input_ids = random_ids({kBatch, c.length}, kVocabulary, 5);
  batch.attention_mask = at::ones({kBatch, c.length}, at::kLong);
  batch.attention_mask[1].slice(0, c.length - c.length / 4).zero_();
  if (c.labelled) {
    batch.labels = random_ids({kBatch, c.length}, kVocabulary, 6);
    batch.labels.slice(1, 1, 3).fill_(-100);
  } else {
    batch.loss_mask = random_mask({kBatch, c.length}, 0.8, 7).to(at::kLong);
  }
  return input;
}

at::Tensor results_of_processes(const Case& c, int64_t count) {
  std::vector<at::Tensor> shares(static_cast<size_t>(count));
  ThreadShares(count).run([&](const std::shared_ptr<SequenceShare>& share) {
    auto input = input_of(c);
    input.sequence_share = share;
    input.batch.sum_over_processes = sum_over(share);
    shares[static_cast<size_t>(share->index())] = results_of(*model_of(c), input);
  });
  return at::stack(shares).sum(0);
}

const Json kNone = Json::object();
const Json kEagle3 = {{"use_aux_hidden_state", true}, {"use_last_layernorm", true}};

Json with(Json json, const Json& more) {
  json.update(more);
  return json;
}

std::vector<Case> cases() {
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

TEST_CASE("processes that share sequences have the loss and gradients of one") {
  for (const auto& c : cases()) {
    const auto alone = results_of(*model_of(c), input_of(c));
    for (const int64_t count : {1, 2, 4}) {
      CAPTURE(c.name);
      CAPTURE(count);
      CHECK_CLOSE(results_of_processes(c, count), alone, 1e-11);
    }
  }
}

std::optional<SequenceNeeds> needs_of(const Case& c, const std::string& numerics = "") {
  auto base = base_model()->base_info();
  base.reference_numerics = numerics;
  return conversion_of(c, base).draft->sequence_needs();
}

TEST_CASE("a draft says how far it looks ahead, or that it cannot be divided") {
  const auto needs = needs_of({"",
                               {{"eagle_ttt_steps", 5}},
                               with(kEagle3, {{"parallel_draft_step", 3}, {"has_lm_head", true}})});
  REQUIRE(needs.has_value());
  CHECK(needs->positions_ahead == 8);
  CHECK(needs->attention_heads == 4);
  CHECK_FALSE(needs_of({"", {{"eagle_mix_hidden_states", true}}, kEagle3}).has_value());
  CHECK_FALSE(needs_of({"", kNone, kEagle3}, "0.47").has_value());
  CHECK_FALSE(needs_of({"", kNone, kNone}, "0.42").has_value());
}

}  // namespace
}  // namespace outrider::testing::eagle_sequence_tests
