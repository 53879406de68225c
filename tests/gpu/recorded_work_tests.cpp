#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <doctest/doctest.h>

#include <thread>

#include "device.h"
#include "outrider/decode/decoder.h"
#include "outrider/decode/draft_tree.h"
#include "outrider/error.h"
#include "outrider/host/convert.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/kernels/recorded_work.h"
#include "outrider/model/base_model_registry.h"
#include "outrider/model/draft.h"
#include "outrider/nn/kv_cache.h"

namespace outrider::testing::recorded_work {
namespace {

using Tensors = kernels::RecordedWork::Tensors;

constexpr int64_t kVocabulary = 640, kHidden = 256;
const auto kOptions = at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);

std::shared_ptr<CausalLM> converted(const Json& mode_config, const std::string& mode) {
  plugin_loader().load({.name = mode});
  const auto config = ModelConfig::from_json(Json{{"architectures", {"LlamaForCausalLM"}},
                                                  {"model_type", "llama"},
                                                  {"vocab_size", kVocabulary},
                                                  {"hidden_size", kHidden},
                                                  {"intermediate_size", 384},
                                                  {"num_hidden_layers", 6},
                                                  {"num_attention_heads", 4},
                                                  {"num_key_value_heads", 2},
                                                  {"head_dim", 64},
                                                  {"max_position_embeddings", 4096},
                                                  {"rms_norm_eps", 1e-5},
                                                  {"tie_word_embeddings", false}},
                                             "tiny config");
  at::manual_seed(71);
  auto model = BaseModelRegistry::instance().create(config, kOptions);
  ConvertOptions options;
  if (mode == "eagle") options.draft_vocabulary = at::arange(0, kVocabulary, 2, at::kLong);
  const std::vector<ModeRequest::Item> modes = {{mode, mode_config}};
  speculative::convert(*model, ModeRequest(modes), options);
  const at::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) {
    if (parameter.dim() == 2) parameter.normal_(0, 0.1);
  }
  return model;
}

Json eagle(const Json& architecture) {
  return {{"eagle_architecture_config", architecture},
          {"eagle_export_rope_scaling", Json::object()}};
}

struct Way {
  const char* mode;
  Json config;
};

std::vector<Way> ways() {
  return {{"eagle", eagle({{"use_aux_hidden_state", true}})},
          {"eagle", eagle({{"use_aux_hidden_state", false}})},
          {"eagle", eagle({{"use_aux_hidden_state", false}, {"use_mtp_layernorm", true}})},
          {"medusa", Json::object()}};
}

const Draft& draft_of(const CausalLM& model) { return *model.speculative_state().front().draft; }

// Rows of a base that never was, the same each time for a seed, and the tokens behind them.
struct Step {
  BaseOutputs rows;
  at::Tensor tokens;
};

Step step_of(CausalLM& model, int64_t seed, int64_t batch, int64_t count) {
  at::manual_seed(static_cast<uint64_t>(seed));
  const auto make = [&] { return at::randn({batch, count, kHidden}, kOptions); };
  Step step{{.last_hidden = make(),
             .head = std::shared_ptr<const LmHead>(&model.head(), [](const LmHead*) {})},
            at::randint(0, kVocabulary, {batch, count}, kOptions.dtype(at::kLong))};
  for (const int64_t layer : draft_of(model).hidden_states_needed().layer_outputs) {
    step.rows.layer_outputs[layer] = make();
  }
  // The others have fewer.
  for (int64_t b = 1; b < batch; ++b)
    step.tokens[b].slice(0, std::max<int64_t>(count - b, 1)).fill_(-1);
  return step;
}

std::vector<DraftRequest> requests(const TreeForm& form) {
  return {{.max_tokens = 4},
          {.max_tokens = 9, .form = &form},
          {.max_tokens = 8, .depth = 3, .width = 3}};
}

// Proposals of all kinds after each of the rounds; as they are drafted without a recording where
// somebody reads the logits.
std::vector<DraftTree> proposals(Drafter& drafter, CausalLM& model, int64_t batch,
                                 bool is_recorded) {
  const auto form = decode::likely_form(9, 4, 3);
  std::vector<DraftTree> trees;
  const auto propose = [&](DraftRequest request) {
    if (!is_recorded) request.on_logits = [](const at::Tensor&) {};
    const auto tree = drafter.propose(request);
    trees.push_back({tree.tokens.clone(), tree.parents.clone(),
                     tree.q.defined() ? tree.q.clone() : tree.q, tree.is_chain});
  };
  const auto first = step_of(model, 1, batch, 9);
  drafter.prefill(first.rows, first.tokens);
  const auto all_kinds = [&](int64_t round) {
    for (const auto& request : requests(form)) propose(request);
    Sampler sampler({.temperature = 0.8, .top_k = 50}, static_cast<uint64_t>(round));
    propose({.max_tokens = 3, .sampler = &sampler});
  };
  for (int64_t round = 0; round < 6; ++round) {
    all_kinds(round);
    const auto step = step_of(model, 10 + round, batch, 1 + round % 4);
    drafter.commit(step.rows, step.tokens);
  }
  if (batch > 1) drafter.keep({1});
  all_kinds(9);
  return trees;
}

void check_same(const std::vector<DraftTree>& actual, const std::vector<DraftTree>& expected) {
  REQUIRE(actual.size() == expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    CAPTURE(i);
    CHECK(actual[i].tokens.equal(expected[i].tokens));
    CHECK(actual[i].parents.equal(expected[i].parents));
    CHECK(actual[i].is_chain == expected[i].is_chain);
    CHECK(actual[i].q.defined() == expected[i].q.defined());
    if (actual[i].q.defined()) CHECK(difference(actual[i].q, expected[i].q) < 1e-6);
  }
}

std::vector<std::vector<int64_t>> tokens_of(const decode::DecodedBatch& batch) {
  std::vector<std::vector<int64_t>> all;
  for (const auto& sequence : batch.sequences) all.push_back(sequence.tokens);
  return all;
}

}  // namespace

TEST_CASE("recorded work gives what it gives as it is, for the inputs of each run") {
  const c10::InferenceMode inference;
  const auto work = [](const Tensors& inputs) {
    const auto [best, ids] = (inputs[0] * 2).topk(3, 1);
    const auto places = kernels::integers_on(ids.device(), {2, 0}).unsqueeze(0);
    return Tensors{std::get<0>(best.sort(1)), ids.gather(1, places.expand({ids.size(0), -1})),
                   inputs[1]};
  };
  kernels::RecordedWork recorded;
  for (int run = 0; run < 4; ++run) {
    const Tensors inputs{at::randn({5, 4000}, at::kCUDA), {}};
    const auto actual = recorded.run(inputs, work), expected = work(inputs);
    CHECK(actual[0].equal(expected[0]));
    CHECK(actual[1].equal(expected[1]));
    CHECK_FALSE(actual[2].defined());
    CHECK(recorded.is_recorded() == (run > 0));
  }
  CHECK_THROWS_AS(recorded.run({at::randn({4, 4000}, at::kCUDA), {}}, work), Error);
}

TEST_CASE("work that waits for the device is not recorded, and runs") {
  const c10::InferenceMode inference;
  const auto work = [](const Tensors& inputs) {
    return Tensors{inputs[0] + inputs[0].max().item<float>()};
  };
  kernels::RecordedWork recorded;
  for (int run = 0; run < 4; ++run) {
    const auto x = at::randn({100}, at::kCUDA);
    CHECK(recorded.run({x}, work)[0].equal(x + x.max()));
    CHECK_FALSE(recorded.is_recorded());
  }
  kernels::RecordedWork next;
  for (int run = 0; run < 3; ++run) {
    const auto x = at::randn({100}, at::kCUDA);
    CHECK(next.run({x}, [](const Tensors& in) { return Tensors{in[0] * 3}; })[0].equal(x * 3));
  }
  CHECK(next.is_recorded());
}

TEST_CASE("paths through trees are kept as plain loops keep them, again and again") {
  const c10::InferenceMode inference;
  constexpr int64_t kLayers = 3, kBatch = 2, kRows = 6;
  nn::KvCache cache(kLayers, kBatch);
  cache.expect(64);
  std::vector<std::vector<at::Tensor>> expected(kBatch);  // the kept keys of layer 0
  for (int64_t round = 0; round < 5; ++round) {
    at::Tensor keys;
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const auto rows = at::randn({kBatch, 2, kRows, 32}, kOptions);
      if (layer == 0) keys = rows;
      cache.append(layer, rows, rows + 1);
    }
    const std::vector<std::vector<int64_t>> paths{{0, 2, 5}, {0, round % 5 + 1}};
    cache.commit_paths(paths);
    for (size_t b = 0; b < paths.size(); ++b) {
      for (const int64_t row : paths[b]) {
        expected[b].push_back(keys[static_cast<int64_t>(b)].select(1, row));
      }
    }
    const auto& kept = cache.slots(0, {}, 0);
    for (size_t b = 0; b < paths.size(); ++b) {
      const auto own = kept.key[static_cast<int64_t>(b)].slice(1, 0, cache.lengths()[b]);
      CHECK(own.equal(at::stack(expected[b], 1)));
      const auto values = kept.value[static_cast<int64_t>(b)].slice(1, 0, cache.lengths()[b]);
      CHECK(values.equal(own + 1));
    }
  }
}

TEST_CASE("slots come back with what was prepared for them, with the rows of who goes on") {
  constexpr int64_t kLayers = 2, kRows = 5;
  nn::KvCache cache(kLayers, 4);
  const void* places[5] = {};
  for (int64_t time = 0; time < 3; ++time) {
    cache.restart(4);
    auto keys = at::randn({4, 2, kRows, 32}, kOptions);
    for (int64_t layer = 0; layer < kLayers; ++layer) cache.append(layer, keys, keys + 1);
    cache.commit({5, 3, 4, 2});
    for (const auto& going_on : std::vector<std::vector<int64_t>>{{0, 1, 2, 3}, {2, 0}, {1}}) {
      cache.keep(going_on);
      keys = keys.index_select(0, at::tensor(going_on, at::kLong).to(keys.device()));
      const auto& slots = cache.slots(1, {}, 0);
      CHECK(slots.key.slice(2, 0, kRows).equal(keys));
      CHECK(slots.value.slice(2, 0, kRows).equal(keys + 1));
      CHECK(cache.prepared<int64_t>("how often")++ == time);
      const void*& place = places[going_on.size()];
      if (time > 0) CHECK(slots.key.const_data_ptr() == place);
      place = slots.key.const_data_ptr();
    }
    CHECK(cache.lengths() == std::vector<int64_t>{5});
  }
}

TEST_CASE("a drafter that is recorded proposes what it does without") {
  const c10::InferenceMode inference;
  for (const auto& way : ways()) {
    CAPTURE(way.mode);
    CAPTURE(way.config.dump());
    const auto model = converted(way.config, way.mode);
    auto& draft = *model->speculative_state().front().draft;
    for (const int64_t batch : {1, 2, 3, 12}) {
      CAPTURE(batch);
      const auto expected = proposals(*draft.make_drafter(), *model, batch, false);
      const auto drafter = draft.make_drafter();
      for (int time = 0; time < 3; ++time) {
        check_same(proposals(*drafter, *model, batch, true), expected);
      }
    }
  }
}

TEST_CASE("a recorded drafter whose cache grows is recorded anew") {
  const c10::InferenceMode inference;
  const auto model = converted(eagle({{"use_aux_hidden_state", true}}), "eagle");
  auto& draft = *model->speculative_state().front().draft;
  const auto recorded = draft.make_drafter(), plain = draft.make_drafter();
  const auto first = step_of(*model, 1, 1, 20);
  for (auto* drafter : {recorded.get(), plain.get()}) drafter->prefill(first.rows, first.tokens);
  for (int64_t round = 0; round < 400; ++round) {
    CAPTURE(round);
    const auto tree = recorded->propose({.max_tokens = 3});
    const auto same = plain->propose({.max_tokens = 3, .on_logits = [](const at::Tensor&) {}});
    REQUIRE(tree.tokens.equal(same.tokens));
    const auto step = step_of(*model, round, 1, 1 + round % 5);
    for (auto* drafter : {recorded.get(), plain.get()}) drafter->commit(step.rows, step.tokens);
  }
}

TEST_CASE("a decoder decodes the same again with what it has recorded, beside another one") {
  const std::vector<std::vector<int64_t>> one{{3, 1, 4, 1, 5, 9, 2, 6}},
      several{{3, 1, 4}, {1, 5, 9, 2, 6, 5}, {3, 5, 8, 9}},
      many{{3}, {1, 4}, {1, 5, 9}, {2, 6}, {5}, {3, 5, 8}, {9}, {7, 9, 3}, {2}, {3, 8}, {4, 6}};
  const auto form = decode::likely_form(9, 4, 3);
  for (const auto& way : ways()) {
    const auto model = converted(way.config, way.mode);
    const auto draft = model->speculative_state().front().draft;
    const auto make = [&] {
      return decode::Decoder(
          *model, [draft] { return draft->make_drafter(); }, draft->hidden_states_needed());
    };
    for (const auto* prompts : {&one, &several, &many}) {
      for (const double temperature : {0.0, 0.9}) {
        for (const auto& request : requests(form)) {
          decode::DecodeOptions options;
          options.max_new_tokens = 48;
          if (prompts == &many) options.stop_tokens = {2, 3, 5, 7};
          options.sampling.temperature = temperature;
          options.draft = request;
          for (size_t i = 0; i < prompts->size(); ++i) options.seeds.push_back(7 + i);
          const auto decoder = make(), other = make();
          const auto expected = tokens_of(decoder.run(*prompts, options));
          for (int time = 0; time < 2; ++time) {
            CHECK(tokens_of(decoder.run(*prompts, options)) == expected);
          }
          std::vector<std::vector<int64_t>> beside;
          std::thread thread([&] { beside = tokens_of(other.run(*prompts, options)); });
          CHECK(tokens_of(decoder.run(*prompts, options)) == expected);
          thread.join();
          CHECK(beside == expected);
        }
      }
    }
  }
}

}  // namespace outrider::testing::recorded_work
