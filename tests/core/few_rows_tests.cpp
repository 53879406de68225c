#include "few_rows_checks.h"
#include "outrider/nn/decoder_layer.h"

namespace outrider::testing::few_rows {
namespace {

const auto kOptions = at::TensorOptions(at::kCPU).dtype(at::kFloat);
const Kind kPlain{kOptions, kOptions, 1e-5};
const auto kHalfOptions = kOptions.dtype(at::kBFloat16);
const Kind kHalfWeights{kOptions, kHalfOptions, 1e-5};
const Kind kHalf{kHalfOptions, kHalfOptions, 0.02};  // rounded to eight bits a few times on the way

}  // namespace

TEST_CASE("on a cpu products of a few rows, with what surrounds them, are those of float64") {
  at::manual_seed(31);
  for (const auto& kind : {kPlain, kHalfWeights, kHalf}) {
    for (const int64_t rows : {1, 2, 5, 16}) {
      for (const bool is_normed : {false, true}) {
        check_product(kind, {rows, 96, {96, 24, 17}}, is_normed, false, false, rows % 2 == 0);
        check_product(kind, {rows, 77, {505}}, is_normed, false, rows % 2 == 1, true);
        check_product(kind, {rows, 256, {39, 39}}, is_normed, true, false, rows % 2 == 1);
        check_product(kind, {rows, 1030, {128}}, is_normed, false, true, false);
      }
    }
  }
}

TEST_CASE("on a cpu attention of a few rows to kept keys is that of plain loops") {
  for (const auto& kind : {kPlain, kHalf}) {
    check_attentions(kind);
    check_attention(kind, {1, 3, 4, 2, 20, 12, {33}});
  }
}

TEST_CASE("on a cpu a base gives few rows behind kept ones what it gives them in one pass") {
  check_bases(kPlain);
  check_bases(kHalf);
}

TEST_CASE("what is neither float32 nor bfloat16 on a cpu, or many rows, is left to others") {
  const c10::InferenceMode inference;
  const auto weight = at::randn({64, 64}, kOptions);
  CHECK(ops::takes_few_rows(at::randn({16, 64}, kOptions), {{weight, {}}}));
  CHECK_FALSE(ops::takes_few_rows(at::randn({17, 64}, kOptions), {{weight, {}}}));
  CHECK_FALSE(ops::takes_few_rows(at::randn({1, 64}, kOptions.dtype(at::kDouble)), {{weight, {}}}));
  CHECK_FALSE(ops::takes_few_rows(at::randn({1, 64}, kOptions), {{weight.t(), {}}}));
  CHECK_FALSE(ops::takes_few_rows(at::randn({1, 64}, kOptions), {{weight.to(at::kDouble), {}}}));
  CHECK_FALSE(ops::takes_few_rows(at::randn({64, 2}, kOptions).t(), {{weight, {}}}));
}

TEST_CASE("a subclass is not taken for the block that it changes") {
  struct Doubled : nn::SwiGluMlp {
    using nn::SwiGluMlp::SwiGluMlp;
    at::Tensor forward(const at::Tensor& x) const override { return 2 * nn::SwiGluMlp::forward(x); }
  };
  struct Shifted : nn::Attention {
    using nn::Attention::Attention;
    nn::QueryKeyValue heads(const ops::LinearInput& x) const override {
      auto all = nn::Attention::heads(x);
      all.key = all.key + 1;
      return all;
    }
  };
  const nn::DecoderLayerShape shape{{32, 32, 4, 2, 8}, 64};
  const auto layer_with = [&](std::shared_ptr<nn::AttentionProjections> attention,
                              std::shared_ptr<nn::Mlp> mlp) {
    return nn::DecoderLayer(shape, std::move(attention), std::move(mlp), kOptions).few_rows_layer();
  };
  const auto attention = std::make_shared<nn::Attention>(shape.attention, kOptions);
  const auto mlp = std::make_shared<nn::SwiGluMlp>(32, 64, false, kOptions);
  CHECK(layer_with(attention, mlp).has_value());
  CHECK_FALSE(layer_with(attention, std::make_shared<Doubled>(32, 64, false, kOptions)));
  CHECK_FALSE(layer_with(std::make_shared<Shifted>(shape.attention, kOptions), mlp));
}

}  // namespace outrider::testing::few_rows
