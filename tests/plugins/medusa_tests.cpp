#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gradcheck.h"
#include "kernels/residual_block.h"
#include "medusa_mode.h"
#include "outrider/ops/operator_library.h"

namespace outrider::testing {
namespace {

constexpr int64_t kVocabulary = 9, kHidden = 6, kBatch = 2;

double silu(double x) { return x / (1.0 + std::exp(-x)); }

at::Tensor residual_silu_by_loops(const at::Tensor& x, const at::Tensor& z,
                                  const at::Tensor& bias) {
  auto y = at::empty(x.sizes(), at::kDouble);
  for (int64_t r = 0; r < x.size(0); ++r) {
    for (int64_t c = 0; c < x.size(1); ++c) {
      y[r][c] = x[r][c].item<double>() + silu(z[r][c].item<double>() + bias[c].item<double>());
    }
  }
  return y;
}

at::Tensor call_residual_silu(const at::Tensor& x, const at::Tensor& z, const at::Tensor& bias) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow("outrider_medusa::residual_silu", "")
      .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&)>()
      .call(x, z, bias);
}

TEST_CASE("the residual block equals loops, rounded once") {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    const auto x = random({5, kHidden}, 1, type), z = random({5, kHidden}, 2, type);
    const auto bias = random({kHidden}, 3, type);
    const auto y = call_residual_silu(x, z, bias);
    CHECK((y.scalar_type() == type));
    const auto expected = residual_silu_by_loops(x, z, bias);
    CHECK_CLOSE(y, expected.to(type), type == at::kFloat ? 1e-6 : 1e-14);
  }
}

TEST_CASE("the residual block multiplies before it adds") {
  const auto x = random({2, 3, kHidden}, 1), weight = random({kHidden, kHidden}, 2);
  const auto bias = random({kHidden}, 3);
  const auto y = medusa::residual_block(x, weight, bias);
  for (int64_t c = 0; c < kHidden; ++c) {
    double z = bias[c].item<double>();
    for (int64_t i = 0; i < kHidden; ++i) {
      z += weight[c][i].item<double>() * x[1][2][i].item<double>();
    }
    CHECK(y[1][2][c].item<double>() == doctest::Approx(x[1][2][c].item<double>() + silu(z)));
  }
}

TEST_CASE("the residual block's gradients equal finite differences") {
  check_gradients(
      [](const auto& in) { return medusa::residual_block(in[0], in[1], in[2]); },
      {random({2, 3, kHidden}, 1), random({kHidden, kHidden}, 2), random({kHidden}, 3)});
  check_gradients([](const auto& in) { return call_residual_silu(in[0], in[1], in[2]); },
                  {random({4, kHidden}, 1), random({4, kHidden}, 2), random({kHidden}, 3)});
}

TEST_CASE("bfloat16 gradients stay near float64") {
  std::vector<at::Tensor> half{random({7, kHidden}, 1, at::kBFloat16),
                               random({7, kHidden}, 2, at::kBFloat16),
                               random({kHidden}, 3, at::kBFloat16)};
  std::vector<at::Tensor> wide;
  for (auto& input : half) {
    wide.push_back(input.to(at::kDouble).requires_grad_());
    input.requires_grad_();
  }
  const auto grad = random({7, kHidden}, 4, at::kBFloat16);
  const auto actual =
      torch::autograd::grad({call_residual_silu(half[0], half[1], half[2])}, half, {grad});
  const auto exact = torch::autograd::grad({call_residual_silu(wide[0], wide[1], wide[2])}, wide,
                                           {grad.to(at::kDouble)});
  for (size_t i = 0; i < exact.size(); ++i) {
    CHECK((actual[i].scalar_type() == at::kBFloat16));
    CHECK_CLOSE(actual[i], exact[i], 0.02);
  }
}

TEST_CASE("the residual block refuses what does not fit") {
  const auto x = random({2, 4}, 1);
  CHECK_CONTAINS(
      failure(ErrorCode::kInternal,
              [&] { call_residual_silu(x, x.slice(0, 1), at::zeros({4}, at::kDouble)); }),
      "x and z [...,h], bias [h]");
  CHECK_CONTAINS(
      failure(ErrorCode::kInternal, [&] { call_residual_silu(x, x, at::zeros({4}, at::kFloat)); }),
      "all of one type and device; got x Double [2,4] on cpu, z Double [2,4] on cpu, bias Float "
      "[4] on cpu");
}

TEST_CASE("the operator's samples can be run as they are registered") {
  const auto& spec = operator_specs().back();
  CHECK(spec.name == "outrider_medusa::residual_silu");
  for (const auto& sample : spec.sample_inputs(at::kFloat)) {
    const auto y =
        call_residual_silu(sample[0].toTensor(), sample[1].toTensor(), sample[2].toTensor());
    CHECK(y.sizes() == sample[0].toTensor().sizes());
  }
}

const ModelConfig& base_config() {
  static const auto config = ModelConfig::from_json({{"architectures", {"LlamaForCausalLM"}},
                                                     {"vocab_size", kVocabulary},
                                                     {"hidden_size", kHidden},
                                                     {"intermediate_size", 8},
                                                     {"num_hidden_layers", 2},
                                                     {"num_attention_heads", 1}},
                                                    "config.json");
  return config;
}

BaseInfo base_info() {
  return {base_config(), "LlamaForCausalLM", at::kDouble, at::kCPU, 2, kHidden, kVocabulary};
}

Json config_of(int64_t heads, int64_t layers) {
  return {{"medusa_num_heads", heads}, {"medusa_num_layers", layers}};
}

std::shared_ptr<Draft> random_draft(const Json& config) {
  auto draft = medusa::MedusaMode().convert(base_info(), config).draft;
  const at::NoGradGuard no_grad;
  uint64_t seed = 100;
  for (auto& parameter : draft->parameters()) {
    parameter.copy_(random(parameter.sizes(), ++seed) * 0.5);
  }
  return draft;
}

struct Base : RandomBase {
  explicit Base(int64_t length)
      : RandomBase(random_ids({kBatch, length}, kVocabulary, 5), kVocabulary, kHidden) {}
};

TrainBatch batch_of(int64_t length, bool labelled) {
  TrainBatch batch;
  batch.input_ids = random_ids({kBatch, length}, kVocabulary, 5);
  if (!labelled) return batch;
  batch.labels = random_ids({kBatch, length}, kVocabulary, 6)
                     .masked_fill(random_mask({kBatch, length}, 0.3, 7), -100);
  return batch;
}

// Logits of a head at one state, through its blocks by loops.
std::vector<double> head_logits(Draft& draft, int64_t head, int64_t layers,
                                const at::Tensor& state) {
  const auto parameters = draft.named_parameters();
  const auto name = std::to_string(head) + ".";
  std::vector<double> x(state.data_ptr<double>(), state.data_ptr<double>() + kHidden);
  const auto product = [&](const at::Tensor& weight, int64_t row) {
    double sum = 0.0;
    for (size_t i = 0; i < x.size(); ++i) {
      sum += weight[row][static_cast<int64_t>(i)].item<double>() * x[i];
    }
    return sum;
  };
  for (int64_t j = 0; j < layers; ++j) {
    const auto block = name + std::to_string(j) + ".linear.";
    std::vector<double> next;
    for (int64_t c = 0; c < kHidden; ++c) {
      next.push_back(x[static_cast<size_t>(c)] +
                     silu(product(parameters[block + "weight"], c) +
                          parameters[block + "bias"][c].item<double>()));
    }
    x = next;
  }
  std::vector<double> logits;
  for (int64_t v = 0; v < kVocabulary; ++v) {
    logits.push_back(product(parameters[name + std::to_string(layers) + ".weight"], v));
  }
  return logits;
}

struct HeadOracle {
  double loss = 0.0, accuracy = 0.0, overlap = 0.0, count = 0.0;
};

void add_row(HeadOracle& sum, const std::vector<double>& logits, int64_t label) {
  double exponentials = 0.0;
  for (const double logit : logits) exponentials += std::exp(logit);
  const double own = logits[static_cast<size_t>(label)];
  sum.loss += std::log(exponentials) - own;
  sum.accuracy += own == *std::max_element(logits.begin(), logits.end()) ? 1.0 : 0.0;
  sum.overlap += std::exp(own) / exponentials;
  sum.count += 1.0;
}

// Head i at t predicts the token t+2+i, which is labels[t+1+i] where labels are given.
HeadOracle head_oracle(Draft& draft, int64_t head, int64_t layers, const Base& base,
                       const TrainBatch& batch) {
  HeadOracle sum;
  const int64_t length = batch.input_ids.size(1);
  for (int64_t b = 0; b < kBatch; ++b) {
    for (int64_t t = 0; t + 2 + head < length; ++t) {
      const auto label =
          batch.labels.defined() ? batch.labels[b][t + 1 + head] : batch.input_ids[b][t + 2 + head];
      if (label.item<int64_t>() == -100) continue;
      add_row(sum, head_logits(draft, head, layers, base.outputs.last_hidden[b][t]),
              label.item<int64_t>());
    }
  }
  const double count = std::max(sum.count, 1.0);
  return {sum.loss / count, sum.accuracy / count, sum.overlap / count, sum.count};
}

void check_against_loops(int64_t heads, int64_t layers, int64_t length, bool labelled) {
  CAPTURE(heads);
  CAPTURE(layers);
  CAPTURE(length);
  const auto draft = random_draft(config_of(heads, layers));
  const Base base(length);
  const auto batch = batch_of(length, labelled);
  const auto loss = draft->loss(base.outputs, batch);
  REQUIRE(loss.steps.size() == static_cast<size_t>(heads));
  double total = 0.0;
  for (int64_t i = 0; i < heads; ++i) {
    const auto expected = head_oracle(*draft, i, layers, base, batch);
    const auto& step = loss.steps[static_cast<size_t>(i)];
    CHECK(step.name == "head_" + std::to_string(i));
    CHECK(step.loss.item<double>() == doctest::Approx(expected.loss).epsilon(1e-6));
    CHECK(step.accuracy.item<double>() == doctest::Approx(expected.accuracy).epsilon(1e-6));
    CHECK(step.overlap.item<double>() == doctest::Approx(expected.overlap).epsilon(1e-6));
    CHECK(step.count.item<double>() == expected.count);
    total += 0.2 * std::pow(0.8, static_cast<double>(i)) * expected.loss;
  }
  CHECK(loss.total.item<double>() == doctest::Approx(total).epsilon(1e-6));
}

TEST_CASE("Medusa's loss equals loops for every number of heads and blocks") {
  for (const int64_t heads : {1, 2, 3}) {
    for (const int64_t layers : {0, 1, 2}) {
      check_against_loops(heads, layers, 6, false);
      check_against_loops(heads, layers, 6, true);
    }
  }
}

TEST_CASE("sequences shorter than a head's reach train the heads they can") {
  for (const int64_t length : {1, 2, 3, 4}) check_against_loops(3, 1, length, false);
}

/// Two sequences with padding in front, and a hole in the second.
TrainBatch padded_batch() {
  auto batch = batch_of(7, false);
  batch.attention_mask =
      at::tensor({0, 0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1}, at::kLong).reshape({kBatch, 7});
  return batch;
}

HeadOracle padded_oracle(Draft& draft, int64_t head, const Base& base, const TrainBatch& batch,
                         bool trains_padding) {
  HeadOracle sum;
  const auto is_token = [&](int64_t b, int64_t t) {
    return batch.attention_mask[b][t].item<int64_t>() == 1;
  };
  for (int64_t b = 0; b < kBatch; ++b) {
    for (int64_t t = 0; t + 2 + head < 7; ++t) {
      if (!is_token(b, t + 2 + head) || !(trains_padding || is_token(b, t))) continue;
      add_row(sum, head_logits(draft, head, 1, base.outputs.last_hidden[b][t]),
              batch.input_ids[b][t + 2 + head].item<int64_t>());
    }
  }
  return {sum.loss / sum.count, sum.accuracy / sum.count, sum.overlap / sum.count, sum.count};
}

void check_padding(Draft& draft, bool trains_padding) {
  const Base base(7);
  const auto batch = padded_batch();
  const auto loss = draft.loss(base.outputs, batch);
  for (int64_t head = 0; head < 2; ++head) {
    const auto expected = padded_oracle(draft, head, base, batch, trains_padding);
    const auto& step = loss.steps[static_cast<size_t>(head)];
    CHECK(step.count.item<double>() == expected.count);
    CHECK(step.loss.item<double>() == doctest::Approx(expected.loss).epsilon(1e-6));
  }
}

TEST_CASE("states at padding train no head, but under the reference's numerics they do") {
  const auto config = config_of(2, 1);
  const auto own = random_draft(config);
  check_padding(*own, /*trains_padding=*/false);
  // Of 7 positions, the heads reach 5 and 4 tokens each; these rows and targets are both tokens.
  const auto loss = own->loss(Base(7).outputs, padded_batch());
  CHECK(loss.steps[0].count.item<double>() == 2 + 2);
  CHECK(loss.steps[1].count.item<double>() == 1 + 2);

  auto base = base_info();
  base.reference_numerics = "0.47";
  const medusa::MedusaMode mode;
  const auto converted = mode.convert(base, config);
  check_padding(*converted.draft, /*trains_padding=*/true);
  check_padding(*mode.restore(base_info(), config, converted.metadata).draft,
                /*trains_padding=*/true);
  check_padding(*mode.restore(base_info(), config, {{"reference_numerics", nullptr}}).draft,
                /*trains_padding=*/false);
}

TEST_CASE("a batch without targets costs nothing") {
  const auto draft = random_draft(config_of(2, 1));
  auto batch = batch_of(5, false);
  batch.loss_mask = at::zeros({kBatch, 5}, at::kLong);
  const auto loss = draft->loss(Base(5).outputs, batch);
  CHECK(loss.total.item<double>() == 0.0);
  CHECK(loss.steps[1].count.item<double>() == 0.0);
}

TEST_CASE("the heads' weights are configurable") {
  auto config = config_of(2, 1);
  config["medusa_heads_coefficient"] = 3.0;
  config["medusa_decay_coefficient"] = 0.5;
  const auto draft = random_draft(config);
  const auto loss = draft->loss(Base(6).outputs, batch_of(6, false));
  CHECK(loss.total.item<double>() == doctest::Approx(3.0 * loss.steps[0].loss.item<double>() +
                                                     1.5 * loss.steps[1].loss.item<double>())
                                         .epsilon(1e-6));
}

TEST_CASE("Medusa's gradients equal finite differences") {
  const auto draft = random_draft(config_of(2, 1));
  const Base base(6);
  const auto batch = batch_of(6, true);
  draft->loss(base.outputs, batch).total.backward();
  const at::NoGradGuard no_grad;
  for (auto& item : draft->named_parameters()) {
    CAPTURE(item.key());
    auto* value = item.value().data_ptr<double>();
    const auto difference = [&](double step) {
      value[3] += step;
      const double loss = draft->loss(base.outputs, batch).total.item<double>();
      value[3] -= step;
      return loss;
    };
    const double slope = (difference(1e-4) - difference(-1e-4)) / 2e-4;
    CHECK(item.value().grad().data_ptr<double>()[3] == doctest::Approx(slope).epsilon(1e-2));
  }
}

TEST_CASE("a recorder sees every head's logits") {
  const auto draft = random_draft(config_of(2, 1));
  const Base base(4);
  auto batch = batch_of(4, false);
  std::map<std::string, at::Tensor> seen;
  batch.recorder = [&](const std::string& name, const at::Tensor& tensor) { seen[name] = tensor; };
  draft->loss(base.outputs, batch);
  REQUIRE(seen.contains("medusa_logits.1"));
  const auto expected = head_logits(*draft, 1, 1, base.outputs.last_hidden[1][2]);
  CHECK_CLOSE(seen["medusa_logits.1"][1][2],
              at::tensor(at::ArrayRef<double>(expected), at::kDouble), 1e-12);
}

TEST_CASE("blocks start with weight zero and a random bias, projections at PyTorch's default") {
  const auto draft = medusa::MedusaMode().convert(base_info(), config_of(2, 2)).draft;
  const double bound = 1.0 / std::sqrt(static_cast<double>(kHidden));
  const auto parameters = draft->named_parameters();
  CHECK(parameters.size() == 10);
  for (const char* block : {"0.0", "0.1", "1.0", "1.1"}) {
    const std::string name = std::string(block) + ".linear.";
    CHECK(parameters[name + "weight"].sizes() == at::IntArrayRef({kHidden, kHidden}));
    CHECK(parameters[name + "weight"].abs().max().item<double>() == 0.0);
    const double largest = parameters[name + "bias"].abs().max().item<double>();
    CHECK(largest > 0.0);
    CHECK(largest <= bound);
  }
  for (const char* name : {"0.2.weight", "1.2.weight"}) {
    CHECK(parameters[name].sizes() == at::IntArrayRef({kVocabulary, kHidden}));
    const double largest = parameters[name].abs().max().item<double>();
    CHECK(largest > 0.5 * bound);
    CHECK(largest <= bound);
  }
}

TEST_CASE("only the last hidden state is read") {
  const auto request = random_draft(config_of(1, 1))->hidden_states_needed();
  CHECK(request.last_hidden);
  CHECK(request.layer_outputs.empty());
  CHECK_FALSE(request.last_hidden_prenorm);
  CHECK_FALSE(request.input_embeddings);
}

TEST_CASE("the schema is ModelOpt's with marked extensions") {
  std::map<std::string, bool> extensions;
  for (const auto& field : medusa::MedusaMode().config_schema().fields()) {
    extensions[field.name] = field.extension;
  }
  CHECK(extensions == std::map<std::string, bool>{{"medusa_num_heads", false},
                                                  {"medusa_num_layers", false},
                                                  {"medusa_freeze_base_model", true},
                                                  {"medusa_heads_coefficient", true},
                                                  {"medusa_decay_coefficient", true}});
  const auto defaults = medusa::MedusaMode().config_schema().resolve(Json::object());
  CHECK(defaults == Json({{"medusa_num_heads", 2},
                          {"medusa_num_layers", 1},
                          {"medusa_freeze_base_model", true},
                          {"medusa_heads_coefficient", 0.2},
                          {"medusa_decay_coefficient", 0.8}}));
  const auto text = failure(ErrorCode::kInvalidConfig, [] {
    medusa::MedusaMode().config_schema().resolve({{"medusa_num_heads", "a"}, {"medusa_layers", 1}});
  });
  CHECK_CONTAINS(text, "medusa_num_heads");
  CHECK_CONTAINS(text, "medusa_layers");
  CHECK_CONTAINS(text, "medusa_num_layers");
}

TEST_CASE("counts that no draft can have are refused together") {
  const auto text = failure(ErrorCode::kInvalidConfig,
                            [] { medusa::MedusaMode().convert(base_info(), config_of(-1, 65)); });
  CHECK_CONTAINS(text, "/medusa_num_heads: got -1, expected 0 to 64");
  CHECK_CONTAINS(text, "/medusa_num_layers: got 65, expected 0 to 64");
  CHECK_NOTHROW(medusa::MedusaMode().convert(base_info(), config_of(0, 64)));
}

TEST_CASE("the preset has four heads of one block") {
  const auto presets = medusa::MedusaMode().presets();
  REQUIRE(presets.size() == 1);
  CHECK(presets[0].name == "medusa");
  const auto conversion = medusa::MedusaMode().convert(base_info(), presets[0].overrides);
  CHECK(conversion.attribute == "medusa_heads");
  CHECK(conversion.config["medusa_num_heads"] == 4);
  CHECK(conversion.draft->named_parameters().size() == 12);
}

TEST_CASE("a conversion freezes as configured and records the numerics asked for") {
  const medusa::MedusaMode mode;
  auto base = base_info();
  CHECK((mode.convert(base, Json::object()).base_edits ==
         std::vector<BaseEdit>{BaseEdit::kFreezeParameters}));
  CHECK(mode.convert(base, {{"medusa_freeze_base_model", false}}).base_edits.empty());
  CHECK(mode.convert(base, Json::object()).metadata["reference_numerics"].is_null());
  base.reference_numerics = "0.42";
  CHECK(mode.convert(base, Json::object()).metadata["reference_numerics"] == "0.42");
}

// [B,V] of a head, for states [B,h].
at::Tensor logits_by_loops(Draft& draft, int64_t head, const at::Tensor& states) {
  std::vector<at::Tensor> rows;
  for (int64_t b = 0; b < states.size(0); ++b) {
    const auto row = head_logits(draft, head, 1, states[b].contiguous());
    rows.push_back(at::tensor(at::ArrayRef<double>(row), at::kDouble));
  }
  return at::stack(rows);
}

TEST_CASE("each level is drafted by its head, from the last state alone") {
  const auto draft = random_draft(config_of(3, 1));
  const auto drafter = draft->make_drafter();
  BaseOutputs base;
  base.last_hidden = random({kBatch, 4, kHidden}, 30);
  drafter->prefill(base, at::tensor({1, 2, 3, 4, 5, 6, -1, -1}, at::kLong).view({kBatch, 4}));
  const auto states = at::stack({base.last_hidden[0][3], base.last_hidden[1][1]});
  const TreeForm form{{-1, -1, 0, 1, 1, 2, 5}, {0, 2, 1, 0, 3, 2, 0}};
  const std::vector<int64_t> levels{0, 0, 1, 1, 1, 2};  // there is no fourth head
  const auto tree = drafter->propose({.form = &form});
  REQUIRE(tree.tokens.size(1) == 6);
  for (int64_t i = 0; i < 6; ++i) {
    const auto at = static_cast<size_t>(i);
    const auto order = logits_by_loops(*draft, levels[at], states).argsort(1, /*descending=*/true);
    CHECK(tree.tokens.select(1, i).equal(order.select(1, form.ranks[at])));
  }
  CHECK(drafter->propose({.max_tokens = 9}).tokens.size(1) == 3);
  CHECK(drafter->propose({.max_tokens = 9, .depth = 5, .width = 2}).tokens.size(1) == 9);
  drafter->commit(base, at::tensor({1, -1, -1, -1, 5, 6, 7, -1}, at::kLong).view({kBatch, 4}));
  drafter->keep({1});
  const auto next = logits_by_loops(*draft, 0, base.last_hidden[1].slice(0, 2, 3));
  CHECK(drafter->propose({}).tokens.item<int64_t>() == next[0].argmax().item<int64_t>());
}

TEST_CASE("a draft without heads proposes nothing") {
  const auto draft = random_draft(config_of(0, 1));
  CHECK_CONTAINS(failure(ErrorCode::kUnsupported, [&] { draft->make_drafter(); }), "without heads");
}

}  // namespace
}  // namespace outrider::testing
