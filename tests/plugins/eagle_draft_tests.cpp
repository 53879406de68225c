#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "config/numerics.h"
#include "eagle_base.h"
#include "eagle_mode.h"
#include "eagle_reference.h"
#include "gradcheck.h"
#include "outrider/model/llama.h"

namespace outrider::testing::draft_tests {
namespace {

constexpr int64_t kVocabulary = 13, kHidden = 8, kLayers = 7, kBatch = 2;

const ModelConfig& base_config() {
  static const auto config =
      ModelConfig::from_json(small_base(kVocabulary, kHidden, kLayers), "config.json");
  return config;
}

BaseInfo base_info(at::ScalarType type = at::kDouble) {
  return {base_config(), "LlamaForCausalLM", type, at::kCPU, kLayers, kHidden, kVocabulary};
}

enum class Mask { kNone, kRightPadding, kHoles, kLossMask, kLabels, kAll };

struct Case {
  const char* name;
  int64_t ttt_steps = 3;
  std::string numerics = "";
  bool reduced_vocabulary = false;
  Json architecture = Json::object();
  Mask mask = Mask::kNone;
  int64_t length = 7;
  bool own_positions = false;
};

at::Tensor draft_vocabulary() { return at::tensor({1, 2, 5, 8, 11}, at::kLong); }

Json architecture_of(const Case& c) {
  Json architecture = {{"intermediate_size", 12},
                       {"num_attention_heads", 4},
                       {"num_key_value_heads", 2},
                       {"head_dim", 4},
                       {"rope_scaling", {{"rope_type", "default"}, {"rope_theta", 10000}}}};
  architecture.update(c.architecture);
  return architecture;
}

std::shared_ptr<Draft> draft_of(const Case& c) {
  auto base = base_info();
  base.reference_numerics = c.numerics;
  if (c.reduced_vocabulary) base.draft_vocabulary = draft_vocabulary();
  const Json config = {{"eagle_ttt_steps", c.ttt_steps},
                       {"eagle_loss_decay_factor", 0.7},
                       {"eagle_architecture_config", architecture_of(c)}};
  auto draft = eagle::EagleMode().convert(base, config).draft;
  const at::NoGradGuard no_grad;
  uint64_t seed = 1000;
  for (auto& item : draft->named_parameters()) {
    const bool is_norm = item.key().find("norm") != std::string::npos;
    item.value().copy_(random(item.value().sizes(), ++seed) * 0.4 + (is_norm ? 1.0 : 0.0));
  }
  return draft;
}

TrainBatch batch_of(const Case& c) {
  TrainBatch batch;
  batch.input_ids = random_ids({kBatch, c.length}, kVocabulary, 5);
  auto mask = at::ones({kBatch, c.length}, at::kLong);
  if (c.mask == Mask::kRightPadding) mask[1].slice(0, c.length - 3).zero_();
  if (c.mask == Mask::kHoles || c.mask == Mask::kAll) {
    mask[0][0] = mask[0][1] = mask[1][3] = 0;
    batch.key_mask = mask.ne(0);
  }
  if (c.mask != Mask::kNone && c.mask != Mask::kLossMask && c.mask != Mask::kLabels) {
    batch.attention_mask = mask;
  }
  if (c.mask == Mask::kLossMask || c.mask == Mask::kAll) {
    batch.loss_mask = random_mask({kBatch, c.length}, 0.6, 8).to(at::kLong);
  }
  if (c.mask == Mask::kLabels || c.mask == Mask::kAll) {
    batch.labels =
        batch.input_ids.roll(-1, 1).masked_fill(random_mask({kBatch, c.length}, 0.4, 9), -100);
  }
  if (c.own_positions) batch.position_ids = random_ids({kBatch, c.length}, 50, 10);
  return batch;
}

/// The base's side of a batch, made by hand.
struct Base : RandomBase {
  explicit Base(const TrainBatch& batch)
      : RandomBase(batch.input_ids, kVocabulary, kHidden, {0, 1, 2, 3, 4, 5, 6}) {
    static_assert(kLayers == 7);
  }
};

bool is_set(const at::Tensor& mask, int64_t b, int64_t t) {
  return mask[b][t].item<int64_t>() != 0;
}

// Whether the token at t is a target, by Outrider's rule or the reference's.
bool is_target(const TrainBatch& batch, const std::string& numerics, int64_t b, int64_t t) {
  if (!numerics.empty()) {
    if (batch.loss_mask.defined()) return is_set(batch.loss_mask, b, t);
    return numerics == "0.42" || !batch.attention_mask.defined() ||
           is_set(batch.attention_mask, b, t);
  }
  if (batch.attention_mask.defined() && !is_set(batch.attention_mask, b, t)) return false;
  if (batch.loss_mask.defined()) return is_set(batch.loss_mask, b, t);
  return !batch.labels.defined() || (t > 0 && batch.labels[b][t - 1].item<int64_t>() != -100);
}

// A row q is gated by the token it predicts, q+2; by the reference, by the one before.
at::Tensor row_weights(const TrainBatch& batch, const std::string& numerics) {
  auto weights = at::zeros(batch.input_ids.sizes(), at::kDouble);
  const int64_t length = batch.input_ids.size(1), ahead = numerics.empty() ? 2 : 1;
  for (int64_t b = 0; b < kBatch; ++b) {
    for (int64_t q = 0; q + ahead < length; ++q) {
      weights[b][q] = is_target(batch, numerics, b, q + ahead) ? 1.0 : 0.0;
    }
  }
  return weights;
}

EagleReference reference_of(const Case& c, Draft& draft, const TrainBatch& batch,
                            const Base& base) {
  EagleReference reference{.steps = c.ttt_steps, .decay = 0.7};
  reference.layers = c.architecture.value("num_hidden_layers", 1);
  reference.norms_hidden_twice = !c.numerics.empty();
  reference.masks_padding_keys = c.numerics.empty();
  for (const auto& item : draft.named_parameters()) reference.parameters[item.key()] = item.value();
  reference.embeddings = base.outputs.input_embeddings;
  std::vector<at::Tensor> aux;
  for (const int64_t layer : draft.hidden_states_needed().layer_outputs) {
    aux.push_back(base.outputs.layer_outputs.at(layer));
  }
  reference.aux = at::cat(aux, -1);
  reference.last_hidden = base.outputs.last_hidden;
  reference.teacher_head =
      c.reduced_vocabulary ? base.head->weight(draft_vocabulary()) : base.head->weight();
  const auto own_head = reference.parameters.find("lm_head.weight");
  reference.head = own_head == reference.parameters.end() ? base.head->weight() : own_head->second;
  reference.row_weights = row_weights(batch, c.numerics);
  reference.token_mask = batch.key_mask;
  reference.positions = batch.position_ids.defined() ? batch.position_ids
                                                     : at::arange(c.length, at::kLong).unsqueeze(0);
  return reference;
}

void check_steps(const DraftLoss& actual, const EagleReference::Result& expected,
                 const std::string& numerics) {
  for (size_t k = 0; k < actual.steps.size(); ++k) {
    CAPTURE(k);
    CHECK(actual.steps[k].name == "parallel_0_step_" + std::to_string(k));
    CHECK_CLOSE(actual.steps[k].loss, expected.steps[k].loss, 1e-5);
    CHECK_CLOSE(actual.steps[k].accuracy, expected.steps[k].accuracy,
                numerics == "0.42" ? 5.1e-4 : 1e-6);
    CHECK_CLOSE(actual.steps[k].overlap, expected.steps[k].overlap, 1e-6);
    CHECK_CLOSE(actual.steps[k].count, expected.steps[k].count, 0.0);
  }
}

void check_gradients_of(Draft& draft, const at::Tensor& actual, const at::Tensor& expected) {
  const auto parameters = draft.parameters();
  const auto got = torch::autograd::grad({actual}, parameters, {}, {}, false, true);
  const auto wanted = torch::autograd::grad({expected}, parameters, {}, {}, false, true);
  for (size_t i = 0; i < parameters.size(); ++i) {
    CAPTURE(draft.named_parameters().keys()[i]);
    const auto zeros = at::zeros_like(parameters[i]);
    // The weights of the rows are float32.
    CHECK_CLOSE(got[i].defined() ? got[i] : zeros, wanted[i].defined() ? wanted[i] : zeros, 1e-6);
  }
}

void check_against_reference(const Case& c) {
  CAPTURE(c.name);
  CAPTURE(c.numerics);
  CAPTURE(c.ttt_steps);
  const auto draft = draft_of(c);
  const auto batch = batch_of(c);
  const Base base(batch);
  const auto expected = reference_of(c, *draft, batch, base).run();
  const auto actual = draft->loss(base.outputs, batch);
  REQUIRE(actual.steps.size() == static_cast<size_t>(c.ttt_steps));
  for (int64_t k = c.length - 1; k < c.ttt_steps; ++k) {
    CHECK(actual.steps[static_cast<size_t>(k)].count.item<double>() == 0.0);
  }
  CHECK(expected.total.item<double>() > 0.1);
  CHECK_CLOSE(actual.total, expected.total, 1e-5);
  check_steps(actual, expected, c.numerics);
  check_gradients_of(*draft, actual.total, expected.total);
}

TEST_CASE("the training loss equals the slow reference in every number of steps") {
  for (const int64_t steps : {1, 2, 3, 4}) {
    for (const char* numerics : {"", "0.47"}) {
      check_against_reference({"plain", steps, numerics});
      check_against_reference({"reduced vocabulary", steps, numerics, true});
    }
  }
  check_against_reference({"0.42", 4, "0.42"});
}

TEST_CASE("the training loss equals the slow reference in every architecture") {
  check_against_reference({"own head", 3, "", false, {{"has_lm_head", true}}});
  check_against_reference({"no last norm", 3, "", false, {{"use_last_layernorm", false}}});
  check_against_reference({"two layers", 3, "", true, {{"num_hidden_layers", 2}}});
  check_against_reference({"two layers", 3, "0.47", false, {{"num_hidden_layers", 2}}});
  check_against_reference({"biases", 3, "", false, {{"attention_bias", true}, {"mlp_bias", true}}});
  check_against_reference(
      {"one layer read", 3, "", false, {{"eagle_aux_hidden_state_layer_ids", {6}}}});
  Case c{"own positions", 3, "", false};
  c.own_positions = true;
  check_against_reference(c);
}

TEST_CASE("the training loss equals the slow reference under every mask") {
  for (const auto mask :
       {Mask::kRightPadding, Mask::kHoles, Mask::kLossMask, Mask::kLabels, Mask::kAll}) {
    for (const char* numerics : {"", "0.47", "0.42"}) {
      CAPTURE(static_cast<int>(mask));
      const int64_t steps = 4;
      check_against_reference({"mask", steps, numerics, false, Json::object(), mask});
    }
  }
}

TEST_CASE("sequences shorter than the steps train what they can") {
  for (const int64_t length : {2, 3}) {
    for (const char* numerics : {"0.47", ""}) {
      Case c{"short", 4, numerics};
      c.length = length;
      if (length == 2 && c.numerics.empty()) continue;  // the token at q+2 does not exist
      check_against_reference(c);
    }
  }
}

TEST_CASE("two tokens have nothing to train on, and one is an error") {
  Case c{"short", 4};
  c.length = 2;
  const auto draft = draft_of(c);
  const auto batch = batch_of(c);
  const auto loss = draft->loss(Base(batch).outputs, batch);
  CHECK(loss.total.item<double>() == 0.0);
  REQUIRE(loss.steps.size() == 4);
  for (const auto& step : loss.steps) {
    CHECK(step.count.item<double>() == 0.0);
    CHECK(step.accuracy.item<double>() == 0.0);
  }
  c.length = 1;
  const auto one = batch_of(c);
  CHECK_CONTAINS(failure(ErrorCode::kInvalidData, [&] { draft->loss(Base(one).outputs, one); }),
                 "sequences must have at least two tokens");
}

TEST_CASE("evaluation runs one step") {
  const Case c{"plain", 3};
  const auto draft = draft_of(c);
  const auto batch = batch_of(c);
  const Base base(batch);
  draft->eval();
  const auto loss = draft->loss(base.outputs, batch);
  auto reference = reference_of(c, *draft, batch, base);
  reference.steps = 1;
  REQUIRE(loss.steps.size() == 1);
  CHECK_CLOSE(loss.total, reference.run().total, 1e-6);
  draft->train();
  CHECK(draft->loss(base.outputs, batch).steps.size() == 3);
}

TEST_CASE("a draft vocabulary that nobody chose is an error") {
  Case c{"uncalibrated", 2};
  c.architecture = {{"draft_vocab_size", 5}};
  const auto draft = draft_of(c);
  const auto batch = batch_of(c);
  const auto text =
      failure(ErrorCode::kInvalidData, [&] { draft->loss(Base(batch).outputs, batch); });
  CHECK_CONTAINS(text, "the draft vocabulary of 5 tokens was never chosen");
  CHECK_CONTAINS(text, "--draft-vocab");
}

TEST_CASE("a chosen draft vocabulary is stored as offsets") {
  const auto draft = draft_of({"reduced", 2, "", true});
  CHECK_CLOSE(draft->named_buffers()["d2t"], at::tensor({1, 1, 3, 5, 7}, at::kLong), 0.0);
  CHECK(draft->named_parameters()["lm_head.weight"].sizes() == at::IntArrayRef({5, kHidden}));
}

// Accuracy and overlap of step 0 against the base's whole vocabulary, by loops.
struct Acceptance {
  double accuracy = 0.0, overlap = 0.0, count = 0.0;
};

void add_row(Acceptance& sum, const at::Tensor& teacher, const at::Tensor& student) {
  const auto p = at::softmax(teacher, 0), q = at::softmax(student, 0);
  const auto ids = draft_vocabulary();
  for (int64_t v = 0; v < ids.size(0); ++v) {
    sum.overlap += std::min(p[ids[v].item<int64_t>()].item<double>(), q[v].item<double>());
  }
  const int64_t drafted = ids[student.argmax().item<int64_t>()].item<int64_t>();
  sum.accuracy += drafted == teacher.argmax().item<int64_t>() ? 1.0 : 0.0;
  sum.count += 1.0;
}

TEST_CASE("acceptance is measured against the base's whole vocabulary") {
  Case c{"reduced", 1, "", true};
  c.length = 40;
  const auto draft = draft_of(c);
  auto batch = batch_of(c);
  const Base base(batch);
  at::Tensor logits;
  batch.recorder = [&](const std::string& name, const at::Tensor& tensor) {
    if (name == "logits.step_0") logits = tensor.detach();
  };
  const auto restricted = draft->loss(base.outputs, batch);
  batch.measure_acceptance = true;
  const auto whole = draft->loss(base.outputs, batch);
  Acceptance sum;
  for (int64_t b = 0; b < kBatch; ++b) {
    for (int64_t q = 0; q + 2 < c.length; ++q) {
      add_row(sum, base.head->logits(base.outputs.last_hidden[b].slice(0, q + 1, q + 2))[0],
              logits[b][q]);
    }
  }
  CHECK(whole.steps[0].accuracy.item<double>() == doctest::Approx(sum.accuracy / sum.count));
  CHECK(whole.steps[0].overlap.item<double>() == doctest::Approx(sum.overlap / sum.count));
  CHECK(restricted.steps[0].accuracy.item<double>() > whole.steps[0].accuracy.item<double>());
  CHECK(restricted.steps[0].overlap.item<double>() > whole.steps[0].overlap.item<double>());
  CHECK_CLOSE(whole.total, restricted.total, 1e-12);
}

TEST_CASE("the base gets no gradient from a draft that only reads it") {
  const Case c{"plain", 2};
  const auto draft = draft_of(c);
  const auto batch = batch_of(c);
  Base base(batch);
  base.outputs.last_hidden.requires_grad_();
  for (auto& [layer, hidden] : base.outputs.layer_outputs) hidden.requires_grad_();
  draft->loss(base.outputs, batch).total.backward();
  CHECK_FALSE(base.outputs.last_hidden.grad().defined());
  for (const auto& [layer, hidden] : base.outputs.layer_outputs) {
    CHECK_FALSE(hidden.grad().defined());
  }
}

TEST_CASE("numerics are Outrider's, 0.47's or 0.42's") {
  CHECK_FALSE(eagle::Numerics::parse("").norms_hidden_twice);
  CHECK(eagle::Numerics::parse("").masks_padding_keys);
  CHECK(eagle::Numerics::parse("0.47").norms_hidden_twice);
  CHECK_FALSE(eagle::Numerics::parse("0.47").ignores_attention_mask);
  CHECK(eagle::Numerics::parse("0.42").ignores_attention_mask);
  for (const char* wrong : {"0.48", "0.4\x1b", "latest"}) {
    const auto text = failure(ErrorCode::kInvalidArgument, [&] { eagle::Numerics::parse(wrong); });
    CHECK_CONTAINS(text, "are not known");
    CHECK_CONTAINS(text, "accepted are 0.47 and 0.42");
    CHECK(text.find('\x1b') == std::string::npos);
  }
}

std::shared_ptr<LlamaForCausalLM> random_base() {
  auto base =
      std::make_shared<LlamaForCausalLM>(base_config(), at::TensorOptions().dtype(at::kDouble));
  const at::NoGradGuard no_grad;
  uint64_t seed = 500;
  for (auto& parameter : base->parameters()) parameter.copy_(random(parameter.sizes(), ++seed));
  return base;
}

TEST_CASE("a draft starts from copies of the base, where they fit") {
  const auto base = random_base();
  const auto given = base->named_parameters();
  const auto draft = draft_of({"reduced", 2, "", true});
  const auto left = draft->named_parameters()["layers.0.self_attn.q_proj.weight"]
                        .slice(1, 0, kHidden)
                        .detach()
                        .clone();
  draft->initialize(*base);
  const auto own = draft->named_parameters();
  const auto query = own["layers.0.self_attn.q_proj.weight"];
  CHECK_CLOSE(query.slice(1, kHidden), given["model.layers.6.self_attn.q_proj.weight"], 0.0);
  CHECK_CLOSE(query.slice(1, 0, kHidden), left, 0.0);
  CHECK_CLOSE(own["layers.0.hidden_norm.weight"], given["model.layers.6.input_layernorm.weight"],
              0.0);
  CHECK_CLOSE(own["layers.0.mlp.up_proj.weight"], given["model.layers.6.mlp.up_proj.weight"], 0.0);
  CHECK_CLOSE(own["norm.weight"], given["model.norm.weight"], 0.0);
  CHECK_CLOSE(own["lm_head.weight"], given["lm_head.weight"].index_select(0, draft_vocabulary()),
              0.0);
  const auto fc = own["fc.weight"];
  CHECK_CLOSE(fc.slice(1, fc.size(1) - kHidden), at::eye(kHidden, at::kDouble), 0.0);
  CHECK_CLOSE(fc.slice(1, 0, fc.size(1) - kHidden),
              at::zeros({kHidden, fc.size(1) - kHidden}, at::kDouble), 0.0);
}

TEST_CASE("under the reference's numerics a draft starts at random") {
  const auto draft = draft_of({"plain", 2, "0.47"});
  std::vector<at::Tensor> before;
  for (const auto& parameter : draft->parameters()) before.push_back(parameter.detach().clone());
  draft->initialize(*random_base());
  const auto after = draft->parameters();
  for (size_t i = 0; i < before.size(); ++i) CHECK_CLOSE(after[i], before[i], 0.0);
}

}  // namespace
}  // namespace outrider::testing::draft_tests
