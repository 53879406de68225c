#include <memory>
#include <string>
#include <vector>

#include "outrider/decode/draft_tree.h"
#include "outrider/model/base_model_registry.h"
#include "outrider/model/causal_lm.h"
#include "outrider/nn/kv_cache.h"
#include "tensor_checks.h"

namespace outrider::testing::cached_pass_tests {
namespace {

constexpr int64_t kVocabulary = 13, kLayers = 2;

std::shared_ptr<CausalLM> build(const std::string& family, const Json& more = Json::object()) {
  Json json = {{"architectures", {family + "ForCausalLM"}},
               {"vocab_size", kVocabulary},
               {"hidden_size", 8},
               {"intermediate_size", 10},
               {"num_hidden_layers", kLayers},
               {"num_attention_heads", 4},
               {"num_key_value_heads", 2},
               {"head_dim", 6}};
  json.update(more);
  auto model = BaseModelRegistry::instance().create(ModelConfig::from_json(json, "config.json"),
                                                    at::TensorOptions(at::kDouble));
  const at::NoGradGuard no_grad;
  uint64_t seed = 0;
  for (auto& parameter : model->parameters()) {
    parameter.copy_(random(parameter.sizes(), ++seed) * 0.4);
  }
  return model;
}

struct Family {
  const char* name;
  Json more;
};

const std::vector<Family>& families() {
  static const std::vector<Family> all{
      {"Llama", Json::object()},
      {"Mistral", {{"sliding_window", 4}}},
      {"Qwen2", {{"use_sliding_window", true}, {"sliding_window", 3}, {"max_window_layers", 1}}},
      {"Qwen3", Json::object()},
      {"Phi3", {{"head_dim", nullptr}, {"hidden_size", 24}}}};
  return all;
}

const HiddenStateRequest kAll{.layer_outputs = {0}, .last_hidden = true, .input_embeddings = true};

BaseOutputs run(CausalLM& model, const at::Tensor& ids, nn::KvCache* cache = nullptr,
                const at::Tensor& tree_mask = {}) {
  const at::NoGradGuard no_grad;
  BasePass pass{ids, {}, {}, kAll};
  pass.cache = cache;
  pass.tree_mask = tree_mask;
  return model.run_base(pass);
}

at::Tensor hidden_of(CausalLM& model, const at::Tensor& ids) { return run(model, ids).last_hidden; }

TEST_CASE("passes that continue from a cache give what one pass gives") {
  for (const auto& family : families()) {
    CAPTURE(family.name);
    const auto model = build(family.name, family.more);
    const auto ids = random_ids({2, 11}, kVocabulary, 5);
    const auto whole = run(*model, ids);
    nn::KvCache cache(kLayers, 2);
    int64_t begin = 0;
    for (const int64_t count : {4, 1, 1, 3, 2}) {
      const auto part = run(*model, ids.slice(1, begin, begin + count), &cache);
      const auto expected = [&](const at::Tensor& x) { return x.slice(1, begin, begin + count); };
      CHECK_CLOSE(part.last_hidden, expected(whole.last_hidden), 1e-12);
      CHECK_CLOSE(part.layer_outputs.at(0), expected(whole.layer_outputs.at(0)), 1e-12);
      cache.commit({count, count});
      begin += count;
    }
    CHECK(cache.lengths() == std::vector<int64_t>{11, 11});
  }
}

TEST_CASE("rows that are not committed leave no trace, and a cache grows") {
  const auto model = build("Mistral", {{"sliding_window", 40}});
  const auto ids = random_ids({1, 150}, kVocabulary, 6);
  const auto whole = hidden_of(*model, ids);
  nn::KvCache cache(kLayers, 1);
  for (int64_t begin = 0; begin < 150; begin += 10) {
    run(*model, random_ids({1, 17}, kVocabulary, 7), &cache);
    const auto part = run(*model, ids.slice(1, begin, begin + 10), &cache);
    CHECK_CLOSE(part.last_hidden, whole.slice(1, begin, begin + 10), 1e-12);
    cache.commit({10});
  }
  cache.truncate({60});
  CHECK_CLOSE(run(*model, ids.slice(1, 60, 65), &cache).last_hidden, whole.slice(1, 60, 65), 1e-12);
}

TEST_CASE("sequences of a batch differ in length, leave it and change places") {
  for (const auto& family : families()) {
    CAPTURE(family.name);
    const auto model = build(family.name, family.more);
    const std::vector<int64_t> lengths{7, 2, 5};
    const auto ids = random_ids({3, 12}, kVocabulary, 8);  // padding is whatever stands there
    nn::KvCache cache(kLayers, 3);
    const auto begun = run(*model, ids.slice(1, 0, 7), &cache).last_hidden;
    cache.commit(lengths);
    const auto next = random_ids({3, 3}, kVocabulary, 9);
    const auto part = run(*model, next, &cache).last_hidden;
    for (int64_t b = 0; b < 3; ++b) {
      const auto length = lengths[static_cast<size_t>(b)];
      const auto sequence = at::cat({ids[b].slice(0, 0, length), next[b]}).unsqueeze(0);
      const auto expected = hidden_of(*model, sequence)[0];
      CHECK_CLOSE(begun[b].slice(0, 0, length), expected.slice(0, 0, length), 1e-12);
      CHECK_CLOSE(part[b], expected.slice(0, length), 1e-12);
    }
    cache.commit({3, 1, 2});
    cache.keep({2, 0});
    CHECK(cache.lengths() == std::vector<int64_t>{7, 10});
    const auto last = run(*model, random_ids({2, 1}, kVocabulary, 10), &cache).last_hidden;
    const auto token = random_ids({2, 1}, kVocabulary, 10);
    const auto third = at::cat({ids[2].slice(0, 0, 5), next[2].slice(0, 0, 2), token[0]});
    const auto first = at::cat({ids[0].slice(0, 0, 7), next[0], token[1]});
    CHECK_CLOSE(last[0][0], hidden_of(*model, third.unsqueeze(0))[0][7], 1e-12);
    CHECK_CLOSE(last[1][0], hidden_of(*model, first.unsqueeze(0))[0][10], 1e-12);
    for (const int64_t sequences : {3, 1, 3}) {
      cache.restart(sequences);
      CHECK(cache.lengths() == std::vector<int64_t>(static_cast<size_t>(sequences), 0));
      const auto again = run(*model, ids.slice(0, 0, sequences).slice(1, 0, 7), &cache).last_hidden;
      CHECK_CLOSE(again, begun.slice(0, 0, sequences), 1e-12);
      cache.commit(std::vector<int64_t>(static_cast<size_t>(sequences), 7));
    }
  }
}

// A root with children 1 and 2, 3 below 1, 4 and 5 below 2, 6 below 5.
const std::vector<std::vector<int64_t>> kPaths{{0},       {0, 1},    {0, 2},      {0, 1, 3},
                                               {0, 2, 4}, {0, 2, 5}, {0, 2, 5, 6}};

TEST_CASE("a tree's nodes see their ancestors alone, and an accepted path stays") {
  const auto parents = at::tensor(std::vector<int64_t>{-1, 0, 0, 1, 2, 2, 5}, at::kLong);
  for (const auto& family : families()) {
    CAPTURE(family.name);
    const auto model = build(family.name, family.more);
    const auto prompts = random_ids({2, 6}, kVocabulary, 11);
    const auto nodes = random_ids({2, 7}, kVocabulary, 12);
    for (const auto& lengths : {std::vector<int64_t>{6, 6}, {6, 3}}) {
      nn::KvCache cache(kLayers, 2);
      run(*model, prompts, &cache);
      cache.commit(lengths);
      const auto mask = decode::ancestors(parents.unsqueeze(0));
      const auto hidden = run(*model, nodes, &cache, mask).last_hidden;
      const auto sequence = [&](int64_t b, const std::vector<int64_t>& path) {
        return at::cat({prompts[b].slice(0, 0, lengths[static_cast<size_t>(b)]),
                        nodes[b].index_select(0, at::tensor(path, at::kLong))})
            .unsqueeze(0);
      };
      for (int64_t b = 0; b < 2; ++b) {
        for (const auto& path : kPaths) {
          const auto expected = hidden_of(*model, sequence(b, path))[0];
          CHECK_CLOSE(hidden[b][path.back()], expected[-1], 1e-12);
        }
      }
      cache.commit_paths({{0, 2, 5}, {0, 1}});
      const auto token = random_ids({2, 1}, kVocabulary, 13);
      const auto after = run(*model, token, &cache).last_hidden;
      const std::vector<std::vector<int64_t>> accepted{{0, 2, 5}, {0, 1}};
      for (int64_t b = 0; b < 2; ++b) {
        const auto all =
            at::cat({sequence(b, accepted[static_cast<size_t>(b)])[0], token[b]}).unsqueeze(0);
        CHECK_CLOSE(after[b][0], hidden_of(*model, all)[0][-1], 1e-12);
      }
    }
  }
}

TEST_CASE("a tree that grows by a level in each pass") {
  const auto model = build("Llama");
  const auto prompt = random_ids({1, 4}, kVocabulary, 14),
             nodes = random_ids({1, 4}, kVocabulary, 15);
  nn::KvCache cache(kLayers, 1);
  run(*model, prompt, &cache);
  cache.commit({4});
  const auto mask = decode::ancestors(at::tensor({-1, -1, 1, 0}, at::kLong).unsqueeze(0));
  const auto first = run(*model, nodes.slice(1, 0, 2), &cache, mask.slice(1, 0, 2).slice(2, 0, 2));
  cache.commit({2});
  const auto second = run(*model, nodes.slice(1, 2), &cache, mask.slice(1, 2));
  const auto expected = [&](std::vector<int64_t> path) {
    return hidden_of(
        *model, at::cat({prompt, nodes.index_select(1, at::tensor(path, at::kLong))}, 1))[0][-1];
  };
  CHECK_CLOSE(first.last_hidden[0][1], expected({1}), 1e-12);
  CHECK_CLOSE(second.last_hidden[0][0], expected({1, 2}), 1e-12);
  CHECK_CLOSE(second.last_hidden[0][1], expected({0, 3}), 1e-12);
}

TEST_CASE("half types attend in float32") {
  const auto single = build("Llama"), half = build("Llama");
  half->to(at::kBFloat16);
  const auto ids = random_ids({1, 9}, kVocabulary, 16);
  nn::KvCache cache(kLayers, 1);
  const auto begin = run(*half, ids.slice(1, 0, 6), &cache).last_hidden;
  cache.commit({6});
  const auto end = run(*half, ids.slice(1, 6), &cache).last_hidden;
  CHECK((end.scalar_type() == at::kBFloat16));
  CHECK_CLOSE(at::cat({begin, end}, 1).to(at::kDouble), hidden_of(*single, ids), 0.06);
}

}  // namespace
}  // namespace outrider::testing::cached_pass_tests
