#include <array>
#include <cmath>
#include <vector>

#include "gradcheck.h"
#include "outrider/nn/decoder_layer.h"
#include "outrider/nn/linear.h"
#include "outrider/nn/rms_norm.h"
#include "outrider/nn/rotary_embedding.h"
#include "outrider/ops/rotary.h"
#include "outrider/ops/swiglu.h"

namespace outrider::testing {
namespace {

// The quotient is rounded to the input's type before the product with the weight.
at::Tensor rms_norm_by_loops(const at::Tensor& x, const at::Tensor& weight, double eps) {
  auto y = at::empty_like(x);
  for (int64_t r = 0; r < x.size(0); ++r) {
    double squares = 0.0;
    for (int64_t c = 0; c < x.size(1); ++c) squares += std::pow(x[r][c].item<double>(), 2);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.size(1)) + eps);
    for (int64_t c = 0; c < x.size(1); ++c) {
      const auto unit =
          at::scalar_tensor(x[r][c].item<double>() * scale, at::kDouble).to(x.scalar_type());
      y[r][c] = unit.item<double>() * weight[c].item<double>();
    }
  }
  return y;
}

TEST_CASE("rms norm equals loops, with bfloat16's rounding between the quotient and the product") {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    nn::RmsNorm norm(24, 0.25, at::TensorOptions().dtype(type));
    CHECK_CLOSE(norm.weight, at::ones({24}), 0.0);
    const auto weight = random({24}, 1, type), x = random({6, 24}, 2, type);
    {
      const at::NoGradGuard no_grad;
      norm.weight.copy_(weight);
    }
    const auto y = norm.forward(x);
    CHECK((y.scalar_type() == type));
    CHECK_CLOSE(y, rms_norm_by_loops(x, weight, 0.25), type == at::kFloat ? 1e-6 : 1e-14);
    if (type != at::kBFloat16) continue;
    const auto wide = x.to(at::kDouble);
    const auto once = weight.to(at::kDouble) * wide / (wide.square().mean(-1, true) + 0.25).sqrt();
    CHECK(largest_difference(y, once.to(type)) > 0.0);
  }
}

TEST_CASE("rms norm's gradients equal finite differences") {
  nn::RmsNorm norm(6, 1e-5, at::kDouble);
  check_gradients(
      [&](const auto& inputs) {
        norm.weight = inputs[1];
        return norm.forward(inputs[0]);
      },
      {random({2, 3, 6}, 1), random({6}, 2)});
}

TEST_CASE("a gated unit equals loops, and its gradients finite differences") {
  const auto gate = random({3, 10}, 3, at::kDouble), up = random({3, 10}, 4, at::kDouble);
  auto expected = at::empty_like(gate);
  for (int64_t r = 0; r < gate.size(0); ++r) {
    for (int64_t c = 0; c < gate.size(1); ++c) {
      const double g = gate[r][c].item<double>();
      expected[r][c] = g / (1 + std::exp(-g)) * up[r][c].item<double>();
    }
  }
  CHECK_CLOSE(ops::swiglu(gate, up), expected, 1e-14);
  check_gradients([](const auto& inputs) { return ops::swiglu(inputs[0], inputs[1]); }, {gate, up});
}

TEST_CASE("the rotation's gradients equal finite differences") {
  const auto angles = random({2, 1, 4, 6}, 5, at::kDouble);
  check_gradients(
      [&](const auto& inputs) { return ops::rotary(inputs[0], angles.cos(), angles.sin()); },
      {random({2, 3, 4, 8}, 6, at::kDouble)});
}

TEST_CASE("query and key turn in their own place, side by side in memory or not") {
  const auto angles = random({2, 1, 4, 6}, 5, at::kDouble);
  const auto cos = angles.cos(), sin = angles.sin();
  const auto side_by_side = random({2, 4, 5, 8}, 6, at::kDouble);  // three heads, then two
  const auto heads = side_by_side.transpose(1, 2);
  const auto query = heads.narrow(1, 0, 3), key = heads.narrow(1, 3, 2);
  const auto expected = ops::rotary(heads, cos, sin);
  ops::rotate_in_place(query, key, cos, sin);
  CHECK(at::equal(side_by_side.transpose(1, 2), expected));
  CHECK_CONTAINS(
      failure(ErrorCode::kInternal, [&] { ops::rotate_in_place(query, key, cos[0], sin[0]); }),
      "rotary");
}

struct TableRow {
  int64_t position;
  std::array<double, 4> cos, sin;
};

struct RotaryCase {
  const char* name;
  Json rope;  // rope_type, rope_theta and the type's own
  int64_t max_position_embeddings;
  std::vector<TableRow> rows;
};

// Values of transformers 5.14.1's LlamaRotaryEmbedding for heads of 8.
std::vector<RotaryCase> rotary_cases() {
  return {{"default",
           {{"rope_type", "default"}, {"rope_theta", 10000.0}},
           64,
           {{3,
             {-0.9899925, 0.9553365, 0.99955, 0.9999955},
             {0.14112, 0.2955202, 0.0299955, 0.002999996}},
            {29,
             {-0.7480575, -0.9709582, 0.9582439, 0.9995795},
             {-0.6636339, 0.2392492, 0.2859522, 0.02899594}},
            {100,
             {0.8623189, -0.8390715, 0.5403023, 0.9950042},
             {-0.5063657, -0.5440211, 0.841471, 0.09983342}}}},
          {"linear",
           {{"rope_type", "linear"}, {"rope_theta", 10000.0}, {"factor", 4.0}},
           64,
           {{3,
             {0.7316889, 0.9971888, 0.9999719, 0.9999997},
             {0.6816388, 0.07492971, 0.00749993, 0.0007499999}},
            {29,
             {0.5679242, 0.7484994, 0.997373, 0.9999737},
             {0.8230809, 0.6631355, 0.0724365, 0.007249937}},
            {100,
             {0.9912028, -0.8011436, 0.9689124, 0.9996875},
             {-0.1323518, 0.5984721, 0.247404, 0.0249974}}}},
          {"dynamic, longer than trained",
           {{"rope_type", "dynamic"}, {"rope_theta", 10000.0}, {"factor", 2.0}},
           64,
           {{3,
             {-0.9899925, 0.9731593, 0.9998385, 0.999999},
             {0.14112, 0.2301326, 0.01797346, 0.001391304}},
            {29,
             {-0.7480575, -0.6240678, 0.9849429, 0.9999096},
             {-0.6636339, 0.7813702, 0.1728799, 0.01344887}},
            {100,
             {0.8623189, 0.1132747, 0.8258166, 0.9989248},
             {-0.5063657, 0.9935637, 0.5639388, 0.04636019}}}},
          {"dynamic, within what was trained",
           {{"rope_type", "dynamic"}, {"rope_theta", 10000.0}, {"factor", 2.0}},
           64,
           {{29,
             {-0.7480575, -0.9709582, 0.9582439, 0.9995795},
             {-0.6636339, 0.2392492, 0.2859522, 0.02899594}}}},
          {"llama3",
           {{"rope_type", "llama3"},
            {"rope_theta", 500000.0},
            {"factor", 8.0},
            {"low_freq_factor", 1.0},
            {"high_freq_factor", 4.0},
            {"original_max_position_embeddings", 300}},
           2400,
           {{3,
             {-0.9899925, 0.9991888, 0.9999999, 1},
             {0.14112, 0.04026935, 0.0005303301, 1.994361e-05}},
            {29,
             {-0.7480575, 0.9251463, 0.9999869, 1},
             {-0.6636339, 0.3796109, 0.005126501, 0.0001927882}},
            {100,
             {0.8623189, 0.2261484, 0.9998438, 0.9999998},
             {-0.5063657, 0.9740928, 0.01767675, 0.0006647869}}}},
          {"yarn",
           {{"rope_type", "yarn"},
            {"rope_theta", 10000.0},
            {"factor", 4.0},
            {"original_max_position_embeddings", 4096}},
           16384,
           {{3,
             {-1.127235, 1.087774, 1.138429, 1.138629},
             {0.1606834, 0.336488, 0.02134805, 0.000853972}},
            {29,
             {-0.8517603, -1.105562, 1.119978, 1.1386},
             {-0.7556331, 0.2724162, 0.2052485, 0.008254992}},
            {100,
             {0.9818617, -0.9553915, 0.9233865, 1.138274},
             {-0.5765628, -0.6194385, 0.666209, 0.02846277}}}},
          {"yarn with two temperatures",
           {{"rope_type", "yarn"},
            {"rope_theta", 10000.0},
            {"factor", 16.0},
            {"original_max_position_embeddings", 4096},
            {"beta_fast", 8.0},
            {"beta_slow", 2.0},
            {"mscale", 0.7},
            {"mscale_all_dim", 1.0}},
           65536,
           {{3,
             {-0.9255222, 0.8931231, 0.9347593, 0.934878},
             {0.13193, 0.2762753, 0.01489899, 0.0001752896}},
            {29,
             {-0.6993425, -0.9077274, 0.9238052, 0.9348765},
             {-0.6204167, 0.2236689, 0.1434606, 0.001694465}},
            {100,
             {0.806163, -0.7844295, 0.8060279, 0.9348597},
             {-0.4733901, -0.5085934, 0.4736199, 0.00584295}}}},
          {"yarn with a given temperature and an unrounded ramp",
           {{"rope_type", "yarn"},
            {"rope_theta", 10000.0},
            {"factor", 4.0},
            {"original_max_position_embeddings", 4096},
            {"attention_factor", 1.5},
            {"truncate", false}},
           16384,
           {{3, {-1.484989, 1.433005, 1.49971, 1.5}, {0.21168, 0.4432803, 0.02950447, 0.001125}},
            {29,
             {-1.122086, -1.456437, 1.472963, 1.499961},
             {-0.9954509, 0.3588739, 0.2835125, 0.01087491}},
            {100,
             {1.293478, -1.258607, 1.188935, 1.499531},
             {-0.7595485, -0.8160317, 0.9145679, 0.03749609}}}}};
}

// transformers 4 keeps the base outside of the dictionary and calls it rope_scaling.
Json older_spelling(Json rope, int64_t max_position_embeddings) {
  const auto theta = rope["rope_theta"];
  rope.erase("rope_theta");
  rope["type"] = rope["rope_type"];
  rope.erase("rope_type");
  return {{"rope_theta", theta},
          {"rope_scaling", rope},
          {"max_position_embeddings", max_position_embeddings}};
}

void check_tables(const RotaryCase& c, const Json& config) {
  nn::RotaryEmbedding rotary(RopeConfig::from_json(config, "config.json"), 8);
  auto positions = at::empty({1, static_cast<int64_t>(c.rows.size())}, at::kLong);
  for (size_t i = 0; i < c.rows.size(); ++i) {
    positions[0][static_cast<int64_t>(i)] = c.rows[i].position;
  }
  const auto tables = rotary.tables(positions, at::kFloat);
  REQUIRE(tables.cos.sizes() == at::IntArrayRef({1, 1, positions.size(1), 8}));
  for (size_t i = 0; i < c.rows.size(); ++i) {
    for (size_t d = 0; d < 8; ++d) {
      CAPTURE(c.rows[i].position);
      CAPTURE(d);
      const auto at = [&](const at::Tensor& table) {
        return table[0][0][static_cast<int64_t>(i)][static_cast<int64_t>(d)].item<double>();
      };
      CHECK(std::abs(at(tables.cos) - c.rows[i].cos[d % 4]) < 2e-6);
      CHECK(std::abs(at(tables.sin) - c.rows[i].sin[d % 4]) < 2e-6);
    }
  }
}

TEST_CASE("rotary tables equal transformers', in both spellings of the config") {
  for (const auto& c : rotary_cases()) {
    CAPTURE(c.name);
    const int64_t longest = c.max_position_embeddings;
    check_tables(c, {{"rope_parameters", c.rope}, {"max_position_embeddings", longest}});
    check_tables(c, older_spelling(c.rope, longest));
  }
}

TEST_CASE("rotary tables are cast to the type that was asked for, per sequence") {
  nn::RotaryEmbedding rotary(RopeConfig{}, 8);
  const auto positions = at::tensor({0, 1, 2, 7, 8, 9}, at::kLong).view({2, 3});
  const auto wide = rotary.tables(positions, at::kFloat);
  const auto narrow = rotary.tables(positions, at::kBFloat16);
  CHECK(wide.cos.sizes() == at::IntArrayRef({2, 1, 3, 8}));
  CHECK((narrow.cos.scalar_type() == at::kBFloat16));
  CHECK_CLOSE(narrow.sin, wide.sin.to(at::kBFloat16), 0.0);
  CHECK((rotary.tables(positions, at::kDouble).cos.scalar_type() == at::kDouble));
}

TEST_CASE("rotation turns each pair of a head by its angle") {
  nn::RotaryEmbedding rotary(RopeConfig{}, 4);
  const auto x = random({1, 2, 3, 4}, 1);
  const auto y = nn::apply_rotary(
      x, rotary.tables(at::tensor({0, 1, 5}, at::kLong).unsqueeze(0), at::kDouble));
  const double positions[] = {0.0, 1.0, 5.0};
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t s = 0; s < 3; ++s) {
      for (int64_t i = 0; i < 2; ++i) {
        const double angle = positions[s] * std::pow(10000.0, -0.5 * static_cast<double>(i));
        const double a = x[0][h][s][i].item<double>(), b = x[0][h][s][i + 2].item<double>();
        CHECK(y[0][h][s][i].item<double>() ==
              doctest::Approx(a * std::cos(angle) - b * std::sin(angle)));
        CHECK(y[0][h][s][i + 2].item<double>() ==
              doctest::Approx(b * std::cos(angle) + a * std::sin(angle)));
      }
    }
  }
}

TEST_CASE("a linear layer is x Wᵀ + b, and starts within PyTorch's bounds") {
  auto layer = nn::initialized_linear(16, 200, true, at::kDouble);
  for (const auto& values : {layer->weight, layer->bias}) {
    CHECK(values.abs().max().item<double>() <= 0.25);
    CHECK(values.abs().max().item<double>() > 0.2);
    CHECK(std::abs(values.mean().item<double>()) < 0.05);
  }
  const auto x = random({2, 16}, 1);
  double sum = layer->bias[7].item<double>();
  for (int64_t i = 0; i < 16; ++i) {
    sum += layer->weight[7][i].item<double>() * x[1][i].item<double>();
  }
  CHECK(layer->forward(x)[1][7].item<double>() == doctest::Approx(sum));
  CHECK_FALSE(nn::Linear(2, 3, false, at::kFloat).bias.defined());
}

constexpr int64_t kWidth = 8, kLength = 6;

std::shared_ptr<nn::DecoderLayer> decoder_layer() {
  const nn::DecoderLayerShape shape{{kWidth, kWidth, 4, 2, 4, true}, 12, true, 1e-5};
  auto layer = std::make_shared<nn::DecoderLayer>(shape, at::TensorOptions().dtype(at::kDouble));
  const at::NoGradGuard no_grad;
  uint64_t seed = 100;
  for (auto& parameter : layer->parameters()) {
    parameter.copy_(random(parameter.sizes(), ++seed) * 0.3);
  }
  return layer;
}

nn::CosSin tables() {
  return nn::RotaryEmbedding(RopeConfig{}, 4)
      .tables(at::arange(kLength, at::kLong).unsqueeze(0), at::kDouble);
}

// The layer as Llama defines it, with a full score matrix.
at::Tensor dense_layer(const nn::DecoderLayer& layer, const at::Tensor& x,
                       const at::Tensor& key_mask) {
  const auto qkv = layer.self_attn->project(layer.input_layernorm->forward(x), tables());
  const auto key = qkv.key.repeat_interleave(2, 1), value = qkv.value.repeat_interleave(2, 1);
  auto allowed = at::ones({kLength, kLength}, at::kBool).tril().view({1, 1, kLength, kLength});
  if (key_mask.defined()) allowed = at::logical_and(allowed, key_mask.unsqueeze(1).unsqueeze(1));
  const auto scores = at::matmul(qkv.query, key.transpose(2, 3)) / 2.0;
  const auto weights = at::softmax(scores.masked_fill(allowed.logical_not(), -1e30), -1) * allowed;
  const auto heads = at::matmul(weights, value).transpose(1, 2).flatten(2);
  const auto residual = x + layer.self_attn->o_proj->forward(heads);
  const auto normed = layer.post_attention_layernorm->forward(residual);
  const auto& mlp = dynamic_cast<const nn::SwiGluMlp&>(*layer.mlp);
  const auto gate = mlp.gate_proj->forward(normed);
  return residual + mlp.down_proj->forward(gate * at::sigmoid(gate) * mlp.up_proj->forward(normed));
}

TEST_CASE("a decoder layer equals the dense formula, with and without a key mask") {
  const auto layer = decoder_layer();
  const auto x = random({2, kLength, kWidth}, 1);
  CHECK_CLOSE(layer->forward(x, tables(), {}), dense_layer(*layer, x, {}), 1e-12);
  auto mask = at::ones({2, kLength}, at::kBool);
  mask[0][2] = false;
  mask[1][0] = false;
  CHECK_CLOSE(layer->forward(x, tables(), mask), dense_layer(*layer, x, mask), 1e-12);
}

TEST_CASE("a later token never changes an earlier output") {
  const auto layer = decoder_layer();
  const auto x = random({1, kLength, kWidth}, 1);
  const auto before = layer->forward(x, tables(), {});
  for (int64_t changed = 0; changed < kLength; ++changed) {
    auto other = x.clone();
    other[0][changed] += 1.0;
    const auto after = layer->forward(other, tables(), {});
    CHECK_CLOSE(after.slice(1, 0, changed), before.slice(1, 0, changed), 0.0);
    CHECK(largest_difference(after[0][kLength - 1], before[0][kLength - 1]) > 1e-6);
  }
}

TEST_CASE("a masked token changes no other output") {
  const auto layer = decoder_layer();
  const auto x = random({1, kLength, kWidth}, 1);
  auto mask = at::ones({1, kLength}, at::kBool);
  mask[0][2] = false;
  auto other = x.clone();
  other[0][2] += 1.0;
  const auto difference =
      (layer->forward(other, tables(), mask) - layer->forward(x, tables(), mask)).abs().sum(-1)[0];
  for (int64_t s = 0; s < kLength; ++s) CHECK((difference[s].item<double>() > 0.0) == (s == 2));
}

}  // namespace
}  // namespace outrider::testing
