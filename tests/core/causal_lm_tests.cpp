#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "outrider/model/base_outputs.h"
#include "outrider/model/causal_lm.h"
#include "outrider/model/draft.h"
#include "outrider/model/llama.h"
#include "outrider/model/train_batch.h"
#include "tensor_checks.h"

namespace outrider::testing::causal_lm_tests {
namespace {

constexpr int64_t kVocabulary = 11, kHidden = 8, kLayers = 3;

std::shared_ptr<LlamaForCausalLM> tiny_llama(bool tied = false) {
  const auto config = ModelConfig::from_json({{"architectures", {"LlamaForCausalLM"}},
                                              {"vocab_size", kVocabulary},
                                              {"hidden_size", kHidden},
                                              {"intermediate_size", 12},
                                              {"num_hidden_layers", kLayers},
                                              {"num_attention_heads", 2},
                                              {"num_key_value_heads", 1},
                                              {"tie_word_embeddings", tied}},
                                             "config.json");
  auto model = std::make_shared<LlamaForCausalLM>(config, at::TensorOptions().dtype(at::kDouble));
  const at::NoGradGuard no_grad;
  uint64_t seed = 10;
  for (auto& parameter : model->parameters()) {
    parameter.copy_(random(parameter.sizes(), ++seed) * 0.4);
  }
  return model;
}

/// Trains one factor on the mean of what it asked for.
class TinyDraft : public Draft {
 public:
  explicit TinyDraft(HiddenStateRequest request) : request_(std::move(request)) {
    weight_ = register_parameter("weight", at::ones({1}, at::kDouble));
  }

  HiddenStateRequest hidden_states_needed() const override { return request_; }

  DraftLoss loss(const BaseOutputs& base, const TrainBatch& batch) override {
    seen_layers.clear();
    for (const auto& [layer, hidden] : base.layer_outputs) seen_layers.insert(layer);
    saw_embeddings = base.input_embeddings.defined();
    saw_prenorm = base.last_hidden_prenorm.defined();
    base_carries_gradient = base.carries_gradient;
    hidden_requires_grad = base.last_hidden.requires_grad();
    key_mask = batch.key_mask;
    return {weight_.sum() * base.last_hidden.mean(), {}};
  }

  std::set<int64_t> seen_layers;
  bool saw_embeddings = false, saw_prenorm = false, base_carries_gradient = false;
  bool hidden_requires_grad = false;
  at::Tensor key_mask;

 private:
  HiddenStateRequest request_;
  at::Tensor weight_;
};

std::shared_ptr<TinyDraft> attach(CausalLM& model, const std::string& attribute,
                                  HiddenStateRequest request, bool freezes = true) {
  auto draft = std::make_shared<TinyDraft>(std::move(request));
  Conversion conversion{attribute, draft, {}, Json::object(), Json::object(), {}};
  if (freezes) conversion.base_edits = {BaseEdit::kFreezeParameters};
  model.attach(std::move(conversion), {});
  return draft;
}

const HiddenStateRequest kLastHiddenOnly{.layer_outputs = {},
                                         .last_hidden = true,
                                         .last_hidden_prenorm = false,
                                         .input_embeddings = false};

at::Tensor ids() { return random_ids({2, 5}, kVocabulary, 3); }

at::Tensor row_of(std::vector<double> values) {
  return at::tensor(at::ArrayRef<double>(values), at::kDouble).to(at::kLong).unsqueeze(0);
}

struct TargetCase {
  const char* name;
  std::vector<double> attention_mask, loss_mask, labels;  // empty: not given
  std::vector<double> expected_ids, expected_mask;
};

// Tokens 5 6 7 8. labels[t] belongs to the token at t+1.
const std::vector<TargetCase>& target_cases() {
  static const std::vector<TargetCase> cases{
      {"nothing given: every token", {}, {}, {}, {5, 6, 7, 8}, {1, 1, 1, 1}},
      {"padding is no target", {0, 1, 1, 0}, {}, {}, {5, 6, 7, 8}, {0, 1, 1, 0}},
      {"a loss mask", {}, {1, 0, 1, 0}, {}, {5, 6, 7, 8}, {1, 0, 1, 0}},
      {"a loss mask on padding", {1, 1, 0, 0}, {0, 1, 1, 0}, {}, {5, 6, 7, 8}, {0, 1, 0, 0}},
      {"labels, shifted", {}, {}, {6, -100, 8, -100}, {5, 6, 7, 8}, {0, 1, 0, 1}},
      {"labels on padding", {1, 1, 1, 0}, {}, {6, -100, 8, 3}, {5, 6, 7, 8}, {0, 1, 0, 0}},
      {"labels other than the tokens", {}, {}, {1, 2, -100, -100}, {5, 1, 2, 8}, {0, 1, 1, 0}},
      {"a loss mask decides over labels",
       {},
       {1, 1, 1, 0},
       {6, -100, 8, -100},
       {5, 6, 7, 8},
       {1, 1, 1, 0}},
      {"all three", {1, 1, 1, 0}, {0, 1, 1, 1}, {1, -100, 2, -100}, {5, 1, 7, 2}, {0, 1, 1, 0}}};
  return cases;
}

TEST_CASE("token targets follow the rule of masks and labels") {
  for (const auto& c : target_cases()) {
    CAPTURE(c.name);
    TrainBatch batch;
    batch.input_ids = row_of({5, 6, 7, 8});
    if (!c.attention_mask.empty()) batch.attention_mask = row_of(c.attention_mask);
    if (!c.loss_mask.empty()) batch.loss_mask = row_of(c.loss_mask);
    if (!c.labels.empty()) batch.labels = row_of(c.labels);
    const auto targets = token_targets(batch);
    CHECK((targets.mask.scalar_type() == at::kFloat));
    CHECK_CLOSE(targets.ids, row_of(c.expected_ids), 0.0);
    CHECK_CLOSE(targets.mask, row_of(c.expected_mask), 0.0);
  }
}

TEST_CASE("expected acceptance length multiplies the hits up") {
  CHECK(expected_acceptance_length({}) == 1.0);
  CHECK(expected_acceptance_length({0.5}) == doctest::Approx(1.5));
  CHECK(expected_acceptance_length({0.8, 0.5, 0.25}) == doctest::Approx(1 + 0.8 + 0.4 + 0.1));
  CHECK(expected_acceptance_length({0.0, 1.0}) == 1.0);
}

TEST_CASE("tensors of a wrong shape are refused by name") {
  const auto model = tiny_llama();
  const auto short_one = at::ones({2, 4}, at::kLong);
  const std::pair<const char*, at::Tensor TrainBatch::*> members[] = {
      {"attention_mask", &TrainBatch::attention_mask},
      {"position_ids", &TrainBatch::position_ids},
      {"loss_mask", &TrainBatch::loss_mask},
      {"labels", &TrainBatch::labels},
      {"document_ids", &TrainBatch::document_ids}};
  for (const auto& [name, member] : members) {
    ForwardInput input;
    input.batch.input_ids = ids();
    input.batch.*member = short_one;
    CHECK_CONTAINS(failure(ErrorCode::kInvalidArgument, [&] { model->forward(input); }),
                   std::string(name) + " is [2,4], expected the shape of input_ids [2,5]");
  }
  for (const auto& wrong : {at::Tensor(), at::ones({4}, at::kLong), at::ones({1, 0}, at::kLong)}) {
    ForwardInput input;
    input.batch.input_ids = wrong;
    CHECK_CONTAINS(failure(ErrorCode::kInvalidArgument, [&] { model->forward(input); }),
                   "input_ids must be [B,S] with at least one token");
  }
}

// -log softmax(logits[t])[token t+1], averaged over the tokens of the mask.
double lm_loss_by_loops(const at::Tensor& logits, const at::Tensor& tokens,
                        const at::Tensor& mask) {
  double sum = 0.0, count = 0.0;
  for (int64_t b = 0; b < tokens.size(0); ++b) {
    for (int64_t t = 1; t < tokens.size(1); ++t) {
      if (mask[b][t].item<double>() == 0.0) continue;
      double exponentials = 0.0;
      for (int64_t v = 0; v < kVocabulary; ++v) {
        exponentials += std::exp(logits[b][t - 1][v].item<double>());
      }
      sum += std::log(exponentials) - logits[b][t - 1][tokens[b][t].item<int64_t>()].item<double>();
      count += 1.0;
    }
  }
  return sum / std::max(count, 1.0);
}

TEST_CASE("the language model's loss equals a loop over its logits") {
  const auto model = tiny_llama();
  ForwardInput input;
  input.batch.input_ids = ids();
  input.batch.loss_mask = random_mask({2, 5}, 0.6, 5);
  input.want_logits = input.want_lm_loss = true;
  const auto output = model->forward(input);
  REQUIRE(output.logits.sizes() == at::IntArrayRef({2, 5, kVocabulary}));
  const double expected =
      lm_loss_by_loops(output.logits, input.batch.input_ids, input.batch.loss_mask);
  CHECK(output.lm_loss.item<double>() == doctest::Approx(expected));
  CHECK(output.loss.item<double>() == doctest::Approx(expected));
  CHECK(output.loss.requires_grad());
  input.batch.loss_mask = at::zeros({2, 5}, at::kLong);
  CHECK(model->forward(input).lm_loss.item<double>() == 0.0);
}

TEST_CASE("nothing is computed that nobody asked for") {
  ForwardInput input;
  input.batch.input_ids = ids();
  const auto output = tiny_llama()->forward(input);
  CHECK_FALSE(output.logits.defined());
  CHECK_FALSE(output.lm_loss.defined());
  CHECK_FALSE(output.loss.defined());
  CHECK(output.draft_losses.empty());
}

TEST_CASE("tied embeddings are the head") {
  const auto tied = tiny_llama(true), untied = tiny_llama(false);
  CHECK(tied->head().weight().is_same(tied->named_parameters()["model.embed_tokens.weight"]));
  CHECK_FALSE(tied->named_parameters().contains("lm_head.weight"));
  CHECK(untied->head().weight().is_same(untied->named_parameters()["lm_head.weight"]));
}

TEST_CASE("one base pass serves two drafts with what either asked for") {
  const auto model = tiny_llama();
  const auto first = attach(*model, "first",
                            {.layer_outputs = {0, 2},
                             .last_hidden = true,
                             .last_hidden_prenorm = false,
                             .input_embeddings = false});
  const auto second = attach(*model, "second",
                             {.layer_outputs = {2},
                              .last_hidden = true,
                              .last_hidden_prenorm = true,
                              .input_embeddings = true});
  ForwardInput input;
  input.batch.input_ids = ids();
  const auto output = model->forward(input);
  for (const auto& draft : {first, second}) {
    CHECK(draft->seen_layers == std::set<int64_t>{0, 2});
    CHECK(draft->saw_embeddings);
    CHECK(draft->saw_prenorm);
  }
  REQUIRE(output.draft_losses.size() == 2);
  CHECK_CLOSE(output.loss, output.draft_losses[0].total + output.draft_losses[1].total, 1e-15);
}

TEST_CASE("what no draft asked for is left out") {
  const auto model = tiny_llama();
  const auto draft = attach(*model, "only", kLastHiddenOnly);
  ForwardInput input;
  input.batch.input_ids = ids();
  model->forward(input);
  CHECK(draft->seen_layers.empty());
  CHECK_FALSE(draft->saw_embeddings);
  CHECK_FALSE(draft->saw_prenorm);
}

TEST_CASE("freezing stops the base's gradients and nobody else's") {
  const auto model = tiny_llama();
  const auto draft = attach(*model, "first", kLastHiddenOnly, /*freezes=*/true);
  attach(*model, "second", kLastHiddenOnly, /*freezes=*/true);
  for (const auto& item : model->named_parameters()) {
    CAPTURE(item.key());
    const bool is_draft = item.key() == "first.weight" || item.key() == "second.weight";
    CHECK(item.value().requires_grad() == is_draft);
  }
  ForwardInput input;
  input.batch.input_ids = ids();
  input.want_lm_loss = true;
  const auto output = model->forward(input);
  CHECK_FALSE(draft->hidden_requires_grad);
  CHECK_FALSE(draft->base_carries_gradient);
  CHECK_CLOSE(output.loss, output.draft_losses[0].total + output.draft_losses[1].total, 1e-15);
  CHECK(output.lm_loss.item<double>() > 0.0);
  output.loss.backward();
  CHECK(model->named_parameters()["first.weight"].grad().defined());
  CHECK_FALSE(model->named_parameters()["lm_head.weight"].grad().defined());
}

TEST_CASE("a base that trains adds its own loss and keeps its graph") {
  const auto model = tiny_llama();
  const auto draft = attach(*model, "only", kLastHiddenOnly, /*freezes=*/false);
  ForwardInput input;
  input.batch.input_ids = ids();
  input.want_lm_loss = true;
  const auto output = model->forward(input);
  CHECK(draft->hidden_requires_grad);
  CHECK(draft->base_carries_gradient);
  CHECK_CLOSE(output.loss, output.draft_losses[0].total + output.lm_loss, 1e-15);
  output.loss.backward();
  for (const auto& item : model->named_parameters()) {
    CAPTURE(item.key());
    CHECK(item.value().grad().defined());
  }
  const at::NoGradGuard no_grad;
  model->forward(input);
  CHECK_FALSE(draft->base_carries_gradient);
}

std::vector<std::string> parameter_names(const CausalLM& model) {
  std::vector<std::string> names;
  for (const auto& item : model.named_parameters()) {
    names.push_back(item.key() + (item.value().requires_grad() ? "+" : "-"));
  }
  return names;
}

TEST_CASE("an attribute that is taken is refused and the model stays as it was") {
  const auto model = tiny_llama();
  attach(*model, "medusa_heads", kLastHiddenOnly, /*freezes=*/false);
  const auto before = parameter_names(*model);
  for (const char* taken : {"medusa_heads", "model", "lm_head"}) {
    const auto text = failure(ErrorCode::kAlreadyConverted,
                              [&] { attach(*model, taken, kLastHiddenOnly, /*freezes=*/true); });
    CHECK_CONTAINS(text, "the model has a part named '" + std::string(taken) + "' already");
    CHECK(parameter_names(*model) == before);
    CHECK(model->speculative_state().size() == 1);
  }
}

TEST_CASE("a list of conversions with one attribute twice is refused before any is committed") {
  const auto model = tiny_llama();
  Conversion conversion;
  conversion.attribute = "twin";
  CHECK_NOTHROW(model->check_attachable({&conversion}));
  CHECK_CONTAINS(failure(ErrorCode::kAlreadyConverted,
                         [&] {
                           model->check_attachable({&conversion, &conversion});
                         }),
                 "'twin'");
  CHECK(model->speculative_state().empty());
}

TEST_CASE("a key mask is made for holes and left padding only") {
  const auto model = tiny_llama();
  const auto draft = attach(*model, "only", kLastHiddenOnly);
  const auto key_mask_for = [&](std::vector<double> mask, bool right_padded = false) {
    ForwardInput input;
    input.batch.input_ids = ids().slice(0, 0, 1);
    if (!mask.empty()) input.batch.attention_mask = row_of(std::move(mask));
    input.right_padded = right_padded;
    model->forward(input);
    return draft->key_mask;
  };
  CHECK_FALSE(key_mask_for({}).defined());
  CHECK_FALSE(key_mask_for({1, 1, 1, 1, 1}).defined());
  CHECK_FALSE(key_mask_for({1, 1, 1, 0, 0}).defined());
  CHECK_CLOSE(key_mask_for({0, 1, 1, 1, 1}), row_of({0, 1, 1, 1, 1}), 0.0);
  CHECK_CLOSE(key_mask_for({1, 0, 1, 1, 0}), row_of({1, 0, 1, 1, 0}), 0.0);
  CHECK_FALSE(key_mask_for({0, 1, 1, 1, 1}, /*right_padded=*/true).defined());
}

TEST_CASE("padding on either side leaves the logits of the tokens alone") {
  const auto model = tiny_llama();
  ForwardInput plain;
  plain.batch.input_ids = row_of({4, 2, 9});
  plain.want_logits = true;
  const auto expected = model->forward(plain).logits;
  ForwardInput right = plain, left = plain;
  right.batch.input_ids = row_of({4, 2, 9, 0, 0});
  right.batch.attention_mask = row_of({1, 1, 1, 0, 0});
  left.batch.input_ids = row_of({0, 0, 4, 2, 9});
  left.batch.attention_mask = row_of({0, 0, 1, 1, 1});
  left.batch.position_ids = row_of({0, 0, 0, 1, 2});
  CHECK_CLOSE(model->forward(right).logits.slice(1, 0, 3), expected, 1e-12);
  CHECK_CLOSE(model->forward(left).logits.slice(1, 2), expected, 1e-12);
}

TEST_CASE("a recorder sees every intermediate result under transformers' numbering") {
  const auto model = tiny_llama();
  std::map<std::string, at::Tensor> seen;
  ForwardInput input;
  input.batch.input_ids = ids();
  input.want_logits = true;
  input.batch.recorder = [&](const std::string& name, const at::Tensor& tensor) {
    seen[name] = tensor;
  };
  const auto logits = model->forward(input).logits;
  for (const char* name : {"base.last_hidden", "base.logits", "hidden_states.0", "hidden_states.1",
                           "hidden_states.2", "hidden_states.3", "hidden_states.last_prenorm"}) {
    CAPTURE(name);
    REQUIRE(seen.contains(name));
  }
  CHECK(seen.size() == 7);
  CHECK_CLOSE(seen["base.logits"], logits, 0.0);
  CHECK_CLOSE(seen["hidden_states.3"], seen["base.last_hidden"], 0.0);
  const auto embedding = model->named_parameters()["model.embed_tokens.weight"];
  CHECK_CLOSE(seen["hidden_states.0"][1][2], embedding[input.batch.input_ids[1][2].item<int64_t>()],
              0.0);
}

TEST_CASE("base info says what the model is") {
  const auto model = tiny_llama();
  const auto info = model->base_info();
  CHECK(info.architecture == "LlamaForCausalLM");
  CHECK((info.dtype == at::kDouble));
  CHECK(info.num_layers == kLayers);
  CHECK(info.hidden_size == kHidden);
  CHECK(info.vocab_size == kVocabulary);
  CHECK_FALSE(info.draft_vocabulary.defined());
}

// The base that bfloat16 parameters stand for, widened once.
std::shared_ptr<LlamaForCausalLM> widened(const LlamaForCausalLM& model) {
  auto wide =
      std::make_shared<LlamaForCausalLM>(model.config(), at::TensorOptions().dtype(at::kFloat));
  const at::NoGradGuard no_grad;
  const auto values = model.named_parameters();
  for (auto& item : wide->named_parameters()) item.value().copy_(values[item.key()]);
  return wide;
}

TEST_CASE("a base that computes in float32 with bfloat16 parameters is the widened base") {
  for (const bool tied : {false, true}) {
    const auto model = tiny_llama(tied);
    model->to(at::kBFloat16);
    const auto wide = widened(*model);
    CHECK(model->compute_in(at::kFloat));
    CHECK((model->dtype() == at::kFloat));
    CHECK((model->base_info().dtype == at::kFloat));
    const ForwardInput input{.batch = {.input_ids = random_ids({2, 6}, kVocabulary, 3)},
                             .want_logits = true};
    const auto logits = model->forward(input).logits;
    CHECK((logits.scalar_type() == at::kFloat));
    CHECK(at::equal(logits, wide->forward(input).logits));
    const auto ids = at::tensor({4, 0, 9}, at::kLong);
    CHECK(at::equal(model->head().weight(ids), wide->head().weight(ids)));
    CHECK(at::equal(model->head().embedding(ids), wide->head().embedding(ids)));
    for (const auto& parameter : model->parameters()) {
      CHECK((parameter.scalar_type() == at::kBFloat16));
    }
  }
}

TEST_CASE("documents of one row have the states and the loss that they have alone") {
  const auto model = tiny_llama();
  const auto states = [&](const at::Tensor& row, const at::Tensor& documents) {
    ForwardInput input;
    input.batch.input_ids = row;
    input.batch.document_ids = documents;
    input.want_logits = true;
    return model->forward(input).logits;
  };
  const auto first = ids().slice(0, 0, 1), second = ids().slice(0, 1, 2).slice(1, 0, 3);
  const auto apart = at::cat({states(first, {}), states(second, {})}, 1);
  const auto row = at::cat({first, second}, 1);
  const auto documents = at::tensor({7, 7, 7, 7, 7, 3, 3, 3}, at::kLong).view({1, 8});
  CHECK_CLOSE(states(row, documents), apart, 1e-6);
  CHECK(largest_difference(states(row, {}), apart) > 1e-3);
}

TEST_CASE("a base as others see it: parameters by their Hugging Face names") {
  const auto model = tiny_llama();
  const BaseView& view = *model;
  CHECK(view.parameter("model.norm.weight").sizes() == at::IntArrayRef({kHidden}));
  CHECK(view.parameter("lm_head.weight").is_same(model->named_parameters()["lm_head.weight"]));
  CHECK_FALSE(view.parameter("model.norm.bias").defined());
}

TEST_CASE("a draft without a drafter says so") {
  TinyDraft draft({});
  CHECK_CONTAINS(failure(ErrorCode::kUnsupported, [&] { draft.make_drafter(); }),
                 "proposes no tokens yet");
}

TEST_CASE("a model is saved in its own type unless it says otherwise") {
  const auto model = tiny_llama();
  CHECK((model->stored_dtype() == at::kDouble));
  model->set_stored_types({at::kBFloat16, {{"lm_head.weight", at::kBFloat16}}});
  CHECK((model->stored_dtype() == at::kBFloat16));
  CHECK((model->dtype() == at::kDouble));
}

/// Another product: the layer's own weight with its signs and one scale for each row, and nothing
/// of the layer's arithmetic.
class SignProduct : public nn::LinearProduct {
 public:
  SignProduct(const nn::Linear& layer, int64_t& calls)
      : signs_(layer.weight.detach().sign()),
        scales_(layer.weight.detach().abs().mean(1)),
        calls_(calls) {}

  at::Tensor forward(const at::Tensor& x) const override {
    ++calls_;
    return at::matmul(x, signs_.t()) * scales_;
  }

 private:
  at::Tensor signs_, scales_;
  int64_t& calls_;
};

std::vector<nn::Linear*> linear_layers(LlamaForCausalLM& model) {
  std::vector<nn::Linear*> layers;
  for (const auto& item : model.named_modules()) {
    auto* layer = dynamic_cast<nn::Linear*>(item.value().get());
    if (layer && item.key() != "lm_head") layers.push_back(layer);
  }
  return layers;
}

at::Tensor last_hidden(CausalLM& model, const at::Tensor& input_ids) {
  return model.run_base({input_ids, {}, {}, {}}).last_hidden;
}

TEST_CASE("a base's linear layers can compute their product in another way, and go back") {
  const auto model = tiny_llama(), rounded = tiny_llama();
  const auto ids = random_ids({2, 5}, kVocabulary, 4);
  const auto before = last_hidden(*model, ids);
  int64_t calls = 0;
  const auto layers = linear_layers(*model), other = linear_layers(*rounded);
  REQUIRE(layers.size() == 7 * kLayers);
  for (auto* layer : layers) {
    layer->replace_product(std::make_shared<SignProduct>(*layer, calls));
  }
  const auto replaced = last_hidden(*model, ids);
  CHECK(calls == 7 * kLayers);
  CHECK(largest_difference(replaced, before) > 1e-3);
  const at::NoGradGuard no_grad;
  for (auto* layer : other) {  // the same as parameters of a base
    layer->weight.copy_(layer->weight.sign() * layer->weight.abs().mean(1, true));
  }
  CHECK_CLOSE(replaced, last_hidden(*rounded, ids), 1e-12);
  for (auto* layer : layers) layer->replace_product(nullptr);
  CHECK_CLOSE(last_hidden(*model, ids), before, 0.0);
}

}  // namespace
}  // namespace outrider::testing::causal_lm_tests
