#include <algorithm>

#include "device.h"
#include "few_rows_checks.h"
#include "outrider/decode/decoder.h"

namespace outrider::testing::few_rows {
namespace {

const auto kOptions = at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);
const Kind kKind{kOptions, kOptions, 0.02};  // rounded to eight bits a few times on the way

}  // namespace

TEST_CASE("products of a few rows, with what surrounds them, are those of float64") {
  at::manual_seed(31);
  for (const int64_t rows : {1, 2, 7, 8, 9, 16, 17, 24, 25, 32, 33, 64, 130}) {
    for (const bool is_normed : {false, true}) {
      check_product(kKind, {rows, 576, {576, 192, 192}}, is_normed, false, false, rows % 2 == 0);
      check_product(kKind, {rows, 2048, {8192}}, is_normed, false, false, false);
      check_product(kKind, {rows, 96, {505}}, is_normed, false, rows % 2 == 1, true);
      check_product(kKind, {rows, 1536, {24, 24}}, is_normed, true, false, rows % 2 == 1);
      check_product(kKind, {rows, 2080, {4096, 4096}}, is_normed, true, false, false);
      check_product(kKind, {rows, 4128, {2048}}, is_normed, false, true, false);
    }
  }
}

TEST_CASE("what the kernels for few rows do not know is left to others") {
  const c10::InferenceMode inference;
  const auto weight = at::randn({64, 64}, kKind.options);
  CHECK(ops::takes_few_rows(at::randn({32, 64}, kKind.options), {{weight, {}}}));
  CHECK(ops::takes_few_rows(at::randn({ops::kMostRowsOfPass, 64}, kKind.options), {{weight, {}}}));
  CHECK_FALSE(ops::takes_few_rows(at::randn({ops::kMostRowsOfPass + 1, 64}, kKind.options),
                                  {{weight, {}}}));
  CHECK_FALSE(
      ops::takes_few_rows(at::randn({1, 64}, kKind.options.dtype(at::kHalf)), {{weight, {}}}));
  CHECK_FALSE(ops::takes_few_rows(at::randn({64, 1}, kKind.options).t(), {{weight.t(), {}}}));
  CHECK_FALSE(ops::takes_few_rows(at::randn({1, 72}, kKind.options),
                                  {{at::randn({8, 72}, kKind.options), {}}}));
  CHECK_FALSE(ops::attends_few_rows(at::randn({1, 80}, kKind.options), 80));
}

TEST_CASE("attention of a few rows to kept keys is that of plain loops") {
  check_attentions(kKind);
  check_attention(kKind, {20, 4, 4, 2, 64, 64, std::vector<int64_t>(20, 40)});
  check_attention(kKind, {16, 2, 128, 128, 32, 32, std::vector<int64_t>(16, 800)});
}

TEST_CASE("a base gives few rows behind kept ones what it gives them in one pass over all") {
  check_bases(kKind);
}

TEST_CASE("many sequences of few rows go the same way, and those of many rows do not") {
  at::manual_seed(35);
  const auto ids = at::randint(0, 505, {20, 90}, kKind.options.dtype(at::kLong));
  for (const char* architecture : {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    CAPTURE(architecture);
    const auto model = model_of(kKind, config_of(architecture, 64));
    for (const int64_t rows : {1, 4, 32}) check_pass(kKind, *model, ids, 50, rows);
    nn::KvCache cache(3, 1);
    const c10::InferenceMode inference;
    const auto one = ids.slice(0, 0, 1);
    model->run_base({.input_ids = one.slice(1, 0, 9), .request = everything(), .cache = &cache});
    cache.commit({9});
    model->run_base({.input_ids = one.slice(1, 9, 42), .request = everything(), .cache = &cache});
    CHECK(cache.prepared().empty());
  }
}

using Sequences = std::vector<std::vector<int64_t>>;

// Each token is the likeliest one behind those before it, up to rounding.
void check_likeliest(CausalLM& model, const Sequences& prompts, const decode::DecodedBatch& batch) {
  const c10::InferenceMode inference;
  for (size_t b = 0; b < prompts.size(); ++b) {
    auto all = prompts[b];
    const auto& tokens = batch.sequences[b].tokens;
    all.insert(all.end(), tokens.begin(), tokens.end());
    const auto ids = at::tensor(all, at::kLong).to(kOptions.device()).unsqueeze(0);
    const auto hidden = model.run_base({.input_ids = ids, .request = everything()}).last_hidden;
    const auto logits = wide(model.head().logits(hidden.squeeze(0)));
    for (size_t i = 0; i < tokens.size(); ++i) {
      const auto row = logits[static_cast<int64_t>(prompts[b].size() + i) - 1];
      const auto short_of = row.max() - row[tokens[i]];
      CHECK(short_of.item<double>() < 2 * kKind.limit * row.abs().max().item<double>());
    }
  }
}

TEST_CASE("decoding that goes on by itself makes likely tokens, and stops where it is told to") {
  at::manual_seed(34);
  const auto model = model_of(kKind, config_of("LlamaForCausalLM", 64));
  const decode::Decoder decoder(*model, {});
  const Sequences one{{7, 1, 300}}, several{{3, 1, 4, 1, 5}, {9}, {2, 6, 5, 3, 5, 8, 9, 7, 9}};
  for (const auto* prompts : {&one, &several, &one}) {
    decode::DecodeOptions options;
    options.max_new_tokens = 45;
    const auto whole = decoder.run(*prompts, options);
    check_likeliest(*model, *prompts, whole);
    for (size_t b = 0; b < prompts->size(); ++b) {
      options.stop_tokens.push_back(whole.sequences[b].tokens[11 * (b + 1)]);
    }
    const auto stopped = decoder.run(*prompts, options);
    for (size_t b = 0; b < prompts->size(); ++b) {
      auto expected = whole.sequences[b].tokens;
      const auto stop = std::ranges::find_first_of(expected, options.stop_tokens);
      expected.erase(stop + 1, expected.end());
      CHECK(stopped.sequences[b].tokens == expected);
    }
  }
}

TEST_CASE("many sequences that end one after the other are decoded alike each time") {
  at::manual_seed(36);
  const auto model = model_of(kKind, config_of("LlamaForCausalLM", 64));
  const decode::Decoder decoder(*model, {});
  Sequences prompts;
  for (int64_t i = 0; i < 40; ++i) prompts.push_back(std::vector<int64_t>(1 + i % 7, 10 * i + 3));
  decode::DecodeOptions options;
  options.max_new_tokens = 60;
  for (int64_t token = 0; token < 505; token += 12) options.stop_tokens.push_back(token);
  const auto first = decoder.run(prompts, options), second = decoder.run(prompts, options);
  check_likeliest(*model, prompts, first);
  size_t stopped = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    CHECK(second.sequences[i].tokens == first.sequences[i].tokens);
    stopped += first.sequences[i].stopped ? 1 : 0;
  }
  CHECK(stopped > 5);
}

}  // namespace outrider::testing::few_rows
