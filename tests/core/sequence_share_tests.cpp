#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "outrider/loss/step_metrics.h"
#include "outrider/loss/trained_rows.h"
#include "outrider/model/llama.h"
#include "outrider/model/mistral.h"
#include "outrider/nn/decoder_layer.h"
#include "outrider/ops/streaming_cross_entropy.h"
#include "tensor_checks.h"
#include "thread_share.h"
#include "training_results.h"

namespace outrider::testing::sequence_share_tests {
namespace {

using Share = std::shared_ptr<SequenceShare>;

at::Tensor own(const at::Tensor& x, int64_t dim, const Share& share) {
  return x.chunk(share->count(), dim)[static_cast<size_t>(share->index())];
}

/// One tensor of each process.
class Parts {
 public:
  explicit Parts(int64_t count) : parts_(static_cast<size_t>(count)) {}
  at::Tensor& operator[](const Share& share) { return parts_[static_cast<size_t>(share->index())]; }
  at::Tensor joined(int64_t dim) const { return at::cat(parts_, dim); }
  at::Tensor sum() const { return at::stack(parts_).sum(0); }

 private:
  std::vector<at::Tensor> parts_;
};

struct Division {
  int64_t processes, heads;
};

const std::vector<Division> kDivisions = {{1, 3}, {2, 4}, {4, 4}, {3, 6}};

TEST_CASE("rows become heads and heads rows again") {
  for (const auto& [count, heads] : kDivisions) {
    CAPTURE(count);
    const auto x = random({2, heads, 2 * count, 5}, 1);
    Parts to_heads(count), back(count);
    ThreadShares(count).run([&, n = count](const Share& share) {
      to_heads[share] = ops::rows_to_heads(own(x, 2, share), share);
      back[share] = ops::heads_to_rows(to_heads[share], share);
      CHECK(to_heads[share].size(1) * n == x.size(1));
    });
    CHECK_CLOSE(to_heads.joined(1), x, 0.0);
    CHECK_CLOSE(back.joined(2), x, 0.0);
  }
}

using Exchange = at::Tensor (*)(const at::Tensor&, const Share&);

// Of Σ w·exchange(x) over all processes: the value, and each process's own gradient.
struct Weighed {
  double value;
  at::Tensor gradient;
};

Weighed weigh(const at::Tensor& x, int64_t count, Exchange exchange, int64_t dim) {
  Parts values(count), gradients(count);
  ThreadShares(count).run([&](const Share& share) {
    const auto mine = own(x, dim, share).detach().clone().requires_grad_();
    const auto moved = exchange(mine, share);
    const auto weights = random(moved.sizes(), 70 + static_cast<uint64_t>(share->index()));
    const auto value = (moved * moved * weights).sum();
    gradients[share] = torch::autograd::grad({value}, {mine})[0];
    values[share] = value.detach();
  });
  return {values.sum().item<double>(), gradients.joined(dim)};
}

void check_differences(at::Tensor x, int64_t count, Exchange exchange, int64_t dim) {
  constexpr double kStep = 1e-5;
  const auto gradient = weigh(x, count, exchange, dim).gradient.contiguous();
  auto* data = x.data_ptr<double>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double kept = data[i];
    data[i] = kept + kStep;
    const double above = weigh(x, count, exchange, dim).value;
    data[i] = kept - kStep;
    const double below = weigh(x, count, exchange, dim).value;
    data[i] = kept;
    CHECK(gradient.data_ptr<double>()[i] == doctest::Approx((above - below) / (2 * kStep)));
  }
}

TEST_CASE("the gradient of an exchange equals finite differences") {
  for (const auto& [count, heads] : kDivisions) {
    CAPTURE(count);
    check_differences(random({1, heads, 2 * count, 2}, 2), count, ops::rows_to_heads, 2);
    check_differences(random({1, heads, 2 * count, 2}, 3), count, ops::heads_to_rows, 1);
  }
}

TEST_CASE("heads that processes cannot divide are refused") {
  const auto refused = failure(ErrorCode::kUnsupported, [] {
    ThreadShares(2).run([](const Share& share) {
      ops::rows_to_heads(random({1, 3, 2, 2}, 1), share);
    });
  });
  CHECK_CONTAINS(refused, "3 attention heads cannot be shared by 2 processes");
}

constexpr int64_t kWidth = 8, kRows = 12, kHeadDim = 4;

std::shared_ptr<nn::DecoderLayer> layer_of(int64_t key_heads, std::optional<int64_t> window) {
  nn::DecoderLayerShape shape{{kWidth, kWidth, 4, key_heads, kHeadDim, true}, 12, true, 1e-5};
  shape.sliding_window = window;
  auto layer = std::make_shared<nn::DecoderLayer>(shape, at::TensorOptions().dtype(at::kDouble));
  const at::NoGradGuard no_grad;
  uint64_t seed = 100;
  for (auto& parameter : layer->parameters()) {
    parameter.copy_(random(parameter.sizes(), ++seed) * 0.3);
  }
  return layer;
}

at::Tensor flat_gradients(const nn::DecoderLayer& layer) {
  std::vector<at::Tensor> gradients;
  for (const auto& parameter : layer.parameters()) gradients.push_back(parameter.grad().flatten());
  return at::cat(gradients);
}

/// A layer's output, and the gradients of a fixed sum of it.
struct LayerPass {
  at::Tensor output, x_gradient, gradients;
};

LayerPass pass_through(const nn::DecoderLayer& layer, const at::Tensor& rows, int64_t first,
                       const at::Tensor& weights, const Share& share) {
  const auto x = rows.detach().clone().requires_grad_();
  const auto positions = at::arange(first, first + rows.size(1), at::kLong).unsqueeze(0);
  const auto tables = nn::RotaryEmbedding(RopeConfig{}, kHeadDim).tables(positions, at::kDouble);
  const auto output = layer.forward(x, tables, {}, share);
  (output * weights).sum().backward();
  return {output.detach(), x.grad(), flat_gradients(layer)};
}

void check_layer(int64_t count, int64_t key_heads, std::optional<int64_t> window) {
  const auto x = random({2, kRows, kWidth}, 1), weights = random({2, kRows, kWidth}, 2);
  const auto whole = pass_through(*layer_of(key_heads, window), x, 0, weights, {});
  Parts output(count), x_gradient(count), gradients(count);
  ThreadShares(count).run([&](const Share& share) {
    const auto first = share->index() * kRows / count;
    const auto pass = pass_through(*layer_of(key_heads, window), own(x, 1, share), first,
                                   own(weights, 1, share), share);
    output[share] = pass.output;
    x_gradient[share] = pass.x_gradient;
    gradients[share] = pass.gradients;
  });
  CHECK_CLOSE(output.joined(1), whole.output, 1e-12);
  CHECK_CLOSE(x_gradient.joined(1), whole.x_gradient, 1e-12);
  CHECK_CLOSE(gradients.sum(), whole.gradients, 1e-11);
}

TEST_CASE("a decoder layer on shared rows equals the undivided one") {
  for (const int64_t count : {1, 2, 4}) {
    for (const int64_t key_heads : {1, 2, 4}) {
      for (const auto window : {std::optional<int64_t>(), std::optional<int64_t>(5)}) {
        CAPTURE(count);
        CAPTURE(key_heads);
        check_layer(count, key_heads, window);
      }
    }
  }
}

/// Predicts the tokens two and `ahead` places further.
class LookingDraft : public Draft {
 public:
  LookingDraft(int64_t ahead, int64_t vocabulary, int64_t hidden) : ahead_(ahead) {
    weight_ = register_parameter("weight", random({vocabulary, hidden}, 77) * 0.3);
  }

  HiddenStateRequest hidden_states_needed() const override { return {.layer_outputs = {0}}; }
  std::optional<SequenceNeeds> sequence_needs() const override { return SequenceNeeds{ahead_}; }

  DraftLoss loss(const BaseOutputs& base, const TrainBatch& batch) override {
    DraftLoss result;
    for (const auto ahead : {int64_t{2}, ahead_}) {
      const auto targets = loss::shifted_targets(batch, ahead);
      const auto seen = base.last_hidden + base.layer_outputs.at(0) + base.input_embeddings;
      const auto rows = seen.flatten(0, 1).index_select(0, targets.rows.index(ahead - 1));
      const auto& weight = targets.rows.weight;
      const auto total = batch.total_count(weight.sum());
      const auto step = ops::streaming_cross_entropy(rows.unsqueeze(0), weight_, targets.labels,
                                                     loss::mean_weights(weight, total));
      loss::add_step(result, "step", step, weight, 1.0, total);
    }
    return result;
  }

 private:
  int64_t ahead_;
  at::Tensor weight_;
};

constexpr int64_t kVocabulary = 11, kAhead = 3;

std::shared_ptr<CausalLM> model_of(const std::string& architecture, Json rope) {
  Json config = {{"architectures", {architecture}}, {"vocab_size", kVocabulary},
                 {"hidden_size", kWidth},           {"intermediate_size", 12},
                 {"num_hidden_layers", 2},          {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},        {"head_dim", kHeadDim},
                 {"max_position_embeddings", 6},    {"rope_scaling", std::move(rope)}};
  if (architecture == "MistralForCausalLM") config["sliding_window"] = 4;
  const auto read = ModelConfig::from_json(config, "config.json");
  const auto options = at::TensorOptions().dtype(at::kDouble);
  std::shared_ptr<CausalLM> model;
  if (architecture == "MistralForCausalLM") {
    model = std::make_shared<MistralForCausalLM>(read, options);
  } else {
    model = std::make_shared<LlamaForCausalLM>(read, options);
  }
  const at::NoGradGuard no_grad;
  uint64_t seed = 10;
  for (auto& parameter : model->parameters()) {
    parameter.copy_(random(parameter.sizes(), ++seed) * 0.4);
  }
  return model;
}

std::shared_ptr<CausalLM> converted(const std::string& architecture, const Json& rope,
                                    bool freezes = true) {
  auto model = model_of(architecture, rope);
  Conversion conversion{"draft",
                        std::make_shared<LookingDraft>(kAhead, kVocabulary, kWidth),
                        {},
                        Json::object(),
                        Json::object(),
                        {}};
  if (freezes) conversion.base_edits = {BaseEdit::kFreezeParameters};
  model->attach(conversion, {});
  return model;
}

ForwardInput input_of(int64_t length, bool labelled) {
  ForwardInput input;
  input.batch.input_ids = random_ids({3, length}, kVocabulary, 5);
  input.batch.attention_mask = at::ones({3, length}, at::kLong);
  input.batch.attention_mask[1].slice(0, length - length / 3).zero_();
  auto& targets = labelled ? input.batch.labels : input.batch.loss_mask;
  targets = labelled ? random_ids({3, length}, kVocabulary, 6)
                     : random_mask({3, length}, 0.8, 7).to(at::kLong);
  if (labelled) targets.slice(1, 1, 3).fill_(-100);
  return input;
}

struct PassCase {
  std::string architecture = "LlamaForCausalLM";
  int64_t length = 13;
  bool labelled = false;
  Json rope = nullptr;
};

void check_pass(const PassCase& c, int64_t count) {
  const auto whole = results_of(*converted(c.architecture, c.rope), input_of(c.length, c.labelled));
  Parts shares(count);
  ThreadShares(count).run([&](const Share& share) {
    auto input = input_of(c.length, c.labelled);
    input.sequence_share = share;
    input.batch.sum_over_processes = sum_over(share);
    shares[share] = results_of(*converted(c.architecture, c.rope), input);
  });
  CHECK_CLOSE(shares.sum(), whole, 1e-11);
}

TEST_CASE("a pass over shared sequences equals the undivided one") {
  const PassCase cases[] = {{},
                            {.labelled = true},
                            {.architecture = "MistralForCausalLM"},
                            {.length = 12},
                            {.length = 3},
                            {.rope = {{"rope_type", "dynamic"}, {"factor", 2.0}}}};
  for (const auto& c : cases) {
    for (const int64_t count : {1, 2, 4}) {
      CAPTURE(c.architecture);
      CAPTURE(c.length);
      CAPTURE(count);
      check_pass(c, count);
    }
  }
}

std::string refusal(CausalLM& model, const ForwardInput& input) {
  return failure(ErrorCode::kUnsupported, [&] {
    ThreadShares(1).run([&](const Share& share) {
      auto shared = input;
      shared.sequence_share = share;
      model.forward(shared);
    });
  });
}

TEST_CASE("what processes cannot share of a pass is named, all of it") {
  auto input = input_of(6, false);
  input.want_logits = true;
  input.batch.attention_mask[0][0] = 0;
  input.batch.position_ids = at::arange(6, at::kLong).unsqueeze(0).expand({3, 6});
  const auto said = refusal(*converted("LlamaForCausalLM", nullptr, /*freezes=*/false), input);
  for (const auto* part : {"a base that is trained", "the base's own logits", "position_ids",
                           "padding elsewhere than on the right"}) {
    CHECK_CONTAINS(said, part);
  }
  CHECK(said.find("a draft that") == std::string::npos);
}

}  // namespace
}  // namespace outrider::testing::sequence_share_tests
