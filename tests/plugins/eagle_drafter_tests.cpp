#include <map>
#include <memory>
#include <string>
#include <vector>

#include "eagle_base.h"
#include "eagle_mode.h"
#include "outrider/model/llama.h"
#include "tensor_checks.h"

namespace outrider::testing::drafter_tests {
namespace {

using Tokens = std::vector<int64_t>;

constexpr int64_t kVocabulary = 13, kHidden = 8, kLayers = 7, kSteps = 4;

std::shared_ptr<LlamaForCausalLM> base_model() {
  const auto config =
      ModelConfig::from_json(small_base(kVocabulary, kHidden, kLayers), "config.json");
  auto model = std::make_shared<LlamaForCausalLM>(config, at::TensorOptions(at::kDouble));
  const at::NoGradGuard no_grad;
  uint64_t seed = 500;
  for (auto& parameter : model->parameters()) {
    parameter.copy_(random(parameter.sizes(), ++seed) * 0.4);
  }
  return model;
}

struct Variant {
  const char* name;
  Json config = Json::object();
  std::string numerics = "";
  bool reduced = false;
};

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all{
      {"EAGLE-3"},
      {"EAGLE-3, residual after the norm", {{"norm_before_residual", true}}},
      {"EAGLE-3, two layers", {{"num_hidden_layers", 2}}},
      {"EAGLE-3, reduced vocabulary", Json::object(), "", true},
      {"EAGLE-3 as 0.47", Json::object(), "0.47"},
      {"EAGLE-1", {{"use_aux_hidden_state", false}}},
      {"EAGLE-MTP", {{"use_aux_hidden_state", false}, {"use_mtp_layernorm", true}}},
      {"EAGLE-1 as 0.42", {{"use_aux_hidden_state", false}}, "0.42"}};
  return all;
}

at::Tensor draft_vocabulary() { return at::tensor(Tokens{1, 2, 5, 8, 11}, at::kLong); }

std::shared_ptr<Draft> draft_of(const CausalLM& model, const Variant& variant) {
  auto base = model.base_info();
  base.reference_numerics = variant.numerics;
  if (variant.reduced) base.draft_vocabulary = draft_vocabulary();
  Json architecture = {{"intermediate_size", 12},
                       {"num_attention_heads", 4},
                       {"num_key_value_heads", 2},
                       {"head_dim", 4},
                       {"use_last_layernorm", true},
                       {"rope_scaling", {{"rope_type", "default"}, {"rope_theta", 100}}}};
  architecture.update(variant.config);
  auto draft =
      eagle::EagleMode()
          .convert(base, {{"eagle_ttt_steps", kSteps}, {"eagle_architecture_config", architecture}})
          .draft;
  const at::NoGradGuard no_grad;
  uint64_t seed = 1000;
  for (auto& item : draft->named_parameters()) {
    const bool is_norm = item.key().find("norm") != std::string::npos;
    item.value().copy_(random(item.value().sizes(), ++seed) * 0.6 + (is_norm ? 1.0 : 0.0));
  }
  draft->train();
  return draft;
}

BaseOutputs outputs_of(CausalLM& model, const Draft& draft, const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  BasePass pass{ids, {}, {}, draft.hidden_states_needed()};
  return model.run_base(pass);
}

BaseOutputs rows(const BaseOutputs& outputs, int64_t begin, int64_t end) {
  auto result = outputs;
  const auto cut = [&](const at::Tensor& x) { return x.defined() ? x.slice(1, begin, end) : x; };
  result.input_embeddings = cut(outputs.input_embeddings);
  result.last_hidden = cut(outputs.last_hidden);
  result.last_hidden_prenorm = cut(outputs.last_hidden_prenorm);
  for (auto& [layer, hidden] : result.layer_outputs) hidden = cut(hidden);
  return result;
}

// What training computes for the chain that begins with the sequence's tokens before `path`: the
// logits after each token of the path, and before the first one.
std::vector<at::Tensor> training_logits(CausalLM& model, Draft& draft, const at::Tensor& sequence,
                                        const Tokens& path) {
  const at::NoGradGuard no_grad;
  // One more token than is read, so that a last step exists.
  auto ids = at::cat({sequence, at::tensor(path, at::kLong), at::zeros({1}, at::kLong)});
  TrainBatch batch;
  batch.input_ids = ids.unsqueeze(0);
  std::map<std::string, at::Tensor> found;
  batch.recorder = [&](const std::string& name, const at::Tensor& tensor) { found[name] = tensor; };
  draft.loss(outputs_of(model, draft, batch.input_ids), batch);
  std::vector<at::Tensor> logits;
  const int64_t begin = sequence.size(0) - 2;  // the state of the last token but one, and the last
  for (int64_t k = 0; k <= static_cast<int64_t>(path.size()); ++k) {
    logits.push_back(found.at("logits.step_" + std::to_string(k))[0][begin + k]);
  }
  return logits;
}

/// Two sequences of different lengths, and a drafter that has read them.
struct Begun {
  Begun(CausalLM& model, Draft& draft) : ids(random_ids({2, 9}, kVocabulary, 21)) {
    const auto outputs = outputs_of(model, draft, ids);
    drafter = draft.make_drafter();
    auto tokens = ids.slice(1, 1).clone();
    tokens[1].slice(0, lengths[1] - 1).fill_(-1);
    drafter->prefill(rows(outputs, 0, 8), tokens);
  }
  at::Tensor sequence(int64_t b) const {
    return ids[b].slice(0, 0, lengths[static_cast<size_t>(b)]);
  }
  at::Tensor ids;
  Tokens lengths{9, 6};
  std::unique_ptr<Drafter> drafter;
};

at::Tensor known(const at::Tensor& q, const Variant& variant) {
  return variant.reduced ? q.index_select(-1, draft_vocabulary()) : q;
}

TEST_CASE("a chain is drafted from what training computes") {
  const auto model = base_model();
  for (const auto& variant : variants()) {
    CAPTURE(variant.name);
    const auto draft = draft_of(*model, variant);
    Begun begun(*model, *draft);
    Sampler sampler({.temperature = 1.0}, 8);
    const auto tree = begun.drafter->propose({.max_tokens = kSteps, .sampler = &sampler});
    for (int64_t b = 0; b < 2; ++b) {
      Tokens path;
      for (int64_t k = 0; k + 1 < kSteps; ++k) path.push_back(tree.tokens[b][k].item<int64_t>());
      const auto logits = training_logits(*model, *draft, begun.sequence(b), path);
      for (int64_t k = 0; k < kSteps; ++k) {
        CHECK_CLOSE(known(tree.q[b][k], variant), at::softmax(logits[static_cast<size_t>(k)], 0),
                    1e-9);
      }
    }
  }
}

TEST_CASE("each path of a tree is drafted as training computes it") {
  const auto model = base_model();
  const TreeForm form{{-1, -1, 0, 0, 1, 2, 3, 4, 6}, {0, 1, 0, 2, 0, 1, 0, 3, 0}};
  for (const auto& variant : variants()) {
    CAPTURE(variant.name);
    const auto draft = draft_of(*model, variant);
    Begun begun(*model, *draft);
    const auto tree = begun.drafter->propose({.form = &form});
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t i = 0; i < 9; ++i) {
        Tokens path;
        for (auto node = form.parents[static_cast<size_t>(i)]; node >= 0;
             node = form.parents[static_cast<size_t>(node)]) {
          path.insert(path.begin(), tree.tokens[b][node].item<int64_t>());
        }
        const auto logits = training_logits(*model, *draft, begun.sequence(b), path).back();
        const auto order = logits.argsort(-1, /*descending=*/true);
        const auto id = order[form.ranks[static_cast<size_t>(i)]];
        const auto token = variant.reduced ? draft_vocabulary().index({id}) : id;
        CHECK(tree.tokens[b][i].item<int64_t>() == token.item<int64_t>());
      }
    }
  }
}

TEST_CASE("after a commit a drafter is as if it had read all at once") {
  const auto model = base_model();
  for (const auto& variant : variants()) {
    CAPTURE(variant.name);
    const auto draft = draft_of(*model, variant);
    Begun begun(*model, *draft);
    begun.drafter->propose({.max_tokens = 12, .depth = 3, .width = 3});
    const auto more = random_ids({2, 3}, kVocabulary, 22);
    std::vector<at::Tensor> sequences{at::cat({begun.sequence(0), more[0].slice(0, 0, 1)}),
                                      at::cat({begun.sequence(1), more[1]})};
    // The rows of the last token of each sequence and of those after it.
    std::vector<BaseOutputs> parts;
    for (int64_t b = 0; b < 2; ++b) {
      const auto length = begun.lengths[static_cast<size_t>(b)];
      const auto whole = at::cat({begun.sequence(b), more[b]}).unsqueeze(0);
      parts.push_back(rows(outputs_of(*model, *draft, whole), length - 1, length + 2));
    }
    auto accepted = parts[0];
    const auto join = [&](at::Tensor& x, const at::Tensor& y) {
      if (x.defined()) x = at::cat({x, y});
    };
    join(accepted.last_hidden, parts[1].last_hidden);
    join(accepted.input_embeddings, parts[1].input_embeddings);
    for (auto& [layer, hidden] : accepted.layer_outputs)
      join(hidden, parts[1].layer_outputs[layer]);
    auto tokens = more.clone();
    tokens[0].slice(0, 1).fill_(-1);
    begun.drafter->commit(accepted, tokens);
    begun.drafter->keep({1, 0});
    Sampler sampler({.temperature = 1.0}, 8);
    const auto tree = begun.drafter->propose({.max_tokens = 3, .sampler = &sampler});
    for (int64_t b = 0; b < 2; ++b) {
      const Tokens path{tree.tokens[b][0].item<int64_t>(), tree.tokens[b][1].item<int64_t>()};
      const auto logits =
          training_logits(*model, *draft, sequences[static_cast<size_t>(1 - b)], path);
      for (int64_t k = 0; k < 3; ++k) {
        CHECK_CLOSE(known(tree.q[b][k], variant), at::softmax(logits[static_cast<size_t>(k)], 0),
                    1e-9);
      }
    }
  }
}

TEST_CASE("a draft whose vocabulary nobody chose proposes nothing") {
  const auto model = base_model();
  const auto draft = draft_of(*model, {"", {{"draft_vocab_size", 5}}});
  CHECK_CONTAINS(failure(ErrorCode::kInvalidData, [&] { draft->make_drafter(); }), "never chosen");
}

}  // namespace
}  // namespace outrider::testing::drafter_tests
