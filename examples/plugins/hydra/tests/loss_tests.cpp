#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "support.h"

namespace hydra::testing {
namespace {

using outrider::Json;
using Row = std::vector<double>;

struct Base : outrider::testing::RandomBase {
  explicit Base(int64_t length)
      : RandomBase(random_ids({kBatch, length}, 23), kVocabulary, kHidden) {}
};

Json config_of(int64_t heads, int64_t layers, const char* loss) {
  return {{"hydra_num_heads", heads},
          {"hydra_num_layers", layers},
          {"hydra_loss", loss},
          {"hydra_heads_coefficient", 0.5},
          {"hydra_decay_coefficient", 0.8}};
}

std::shared_ptr<outrider::Draft> random_draft(const Json& config) {
  auto draft = HydraMode().convert(base_info(), config).draft;
  const at::NoGradGuard no_grad;
  uint64_t seed = 100;
  for (auto& parameter : draft->parameters()) {
    parameter.copy_(random(parameter.sizes(), ++seed) * 0.5);
  }
  return draft;
}

Row values(const at::Tensor& row) {
  const auto plain = row.contiguous();
  return {plain.data_ptr<double>(), plain.data_ptr<double>() + plain.numel()};
}

Row linear(const outrider::Draft& draft, const std::string& name, const Row& x) {
  const auto parameters = draft.named_parameters();
  const auto weight = parameters[name + ".weight"], bias = parameters[name + ".bias"];
  Row y = values(bias);
  for (size_t r = 0; r < y.size(); ++r) {
    const auto line = values(weight[static_cast<int64_t>(r)]);
    for (size_t c = 0; c < x.size(); ++c) y[r] += line[c] * x[c];
  }
  return y;
}

Row head_logits(const outrider::Draft& draft, const Base& base, int64_t head, int64_t layers,
                int64_t b, int64_t t) {
  Row x = values(base.outputs.last_hidden[b][t]);
  for (int64_t k = 1; k <= head + 1; ++k) {
    const auto embedding = values(base.outputs.input_embeddings[b][t + k]);
    x.insert(x.end(), embedding.begin(), embedding.end());
  }
  for (int64_t j = 0; j < layers; ++j) {
    const auto name = "hydra_mlp." + std::to_string(head) + "." + std::to_string(j);
    const auto z = linear(draft, name + ".linear", x);
    x = j == 0 ? linear(draft, name + ".res_connection", x) : x;
    for (size_t c = 0; c < z.size(); ++c) x[c] += z[c] / (1.0 + std::exp(-z[c]));
  }
  return linear(draft, "hydra_lm_head." + std::to_string(head), x);
}

Row softmax(Row logits) {
  double sum = 0.0;
  for (auto& logit : logits) sum += logit = std::exp(logit);
  for (auto& logit : logits) logit /= sum;
  return logits;
}

Row base_probabilities(const Base& base, int64_t b, int64_t t) {
  Row logits;
  for (int64_t v = 0; v < kVocabulary; ++v) {
    logits.push_back(
        at::dot(base.head->weight()[v], base.outputs.last_hidden[b][t]).item<double>());
  }
  return softmax(logits);
}

struct Expected {
  double loss = 0.0, accuracy = 0.0, overlap = 0.0, count = 0.0;

  void add(const Row& q, const Row& p, bool soft) {
    const auto largest = [](const Row& row) { return std::max_element(row.begin(), row.end()); };
    for (size_t v = 0; v < q.size(); ++v) {
      loss -= p[v] * std::log(q[v]);
      overlap += soft ? std::min(p[v], q[v]) : p[v] * q[v];
    }
    accuracy += largest(q) - q.begin() == largest(p) - p.begin() ? 1.0 : 0.0;
    count += 1.0;
  }
};

bool is_trained(const outrider::TrainBatch& batch, int64_t b, int64_t t, int64_t target) {
  const auto at = [&](const at::Tensor& tensor, int64_t i) {
    return tensor.defined() ? tensor[b][i].item<int64_t>() : 1;
  };
  bool trained = at(batch.loss_mask, target) != 0;
  for (int64_t i = t; i <= target; ++i) {
    trained = trained && at(batch.attention_mask, i) != 0 &&
              at(batch.document_ids, i) == at(batch.document_ids, t);
  }
  return trained;
}

Expected expected_of(const outrider::Draft& draft, const Base& base,
                     const outrider::TrainBatch& batch, int64_t head, int64_t layers, bool soft) {
  Expected sum;
  for (int64_t b = 0; b < kBatch; ++b) {
    for (int64_t t = 0; t + 2 + head < batch.input_ids.size(1); ++t) {
      const int64_t target = t + 2 + head;
      if (!is_trained(batch, b, t, target)) continue;
      Row p(kVocabulary, 0.0);
      p[static_cast<size_t>(batch.input_ids[b][target].item<int64_t>())] = 1.0;
      if (soft) p = base_probabilities(base, b, target - 1);
      sum.add(softmax(head_logits(draft, base, head, layers, b, t)), p, soft);
    }
  }
  const double n = std::max(sum.count, 1.0);
  return {sum.loss / n, sum.accuracy / n, sum.overlap / n, sum.count};
}

void check_against_loops(int64_t heads, int64_t layers, const outrider::TrainBatch& batch,
                         bool soft) {
  const auto draft = random_draft(config_of(heads, layers, soft ? "teacher" : "label"));
  const Base base(batch.input_ids.size(1));
  const auto loss = draft->loss(base.outputs, batch);
  REQUIRE(loss.steps.size() == static_cast<size_t>(heads));
  double total = 0.0;
  for (int64_t i = 0; i < heads; ++i) {
    CAPTURE(i);
    const auto expected = expected_of(*draft, base, batch, i, layers, soft);
    const auto& step = loss.steps[static_cast<size_t>(i)];
    CHECK(step.name == "head_" + std::to_string(i));
    CHECK(step.loss.item<double>() == doctest::Approx(expected.loss).epsilon(1e-6));
    CHECK(step.accuracy.item<double>() == doctest::Approx(expected.accuracy).epsilon(1e-6));
    CHECK(step.overlap.item<double>() == doctest::Approx(expected.overlap).epsilon(1e-6));
    CHECK(step.count.item<double>() == expected.count);
    total += 0.5 * std::pow(0.8, static_cast<double>(i)) * expected.loss;
  }
  CHECK(loss.total.item<double>() == doctest::Approx(total).epsilon(1e-6));
}

outrider::TrainBatch plain_batch(int64_t length) {
  return {.input_ids = random_ids({kBatch, length}, 5)};
}

outrider::TrainBatch masked_batch() {
  auto batch = plain_batch(7);
  batch.loss_mask = at::tensor({1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1}).view({2, 7});
  batch.attention_mask = at::tensor({1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1}).view({2, 7});
  return batch;
}

outrider::TrainBatch packed_batch() {
  auto batch = plain_batch(7);
  batch.document_ids = at::tensor({0, 0, 0, 0, 1, 1, 1, 4, 4, 7, 7, 7, 7, 7}).view({2, 7});
  return batch;
}

TEST_CASE("Hydra's loss equals loops, for labels and for the base's distribution") {
  for (const bool soft : {false, true}) {
    CAPTURE(soft);
    check_against_loops(1, 1, plain_batch(5), soft);
    check_against_loops(3, 2, plain_batch(6), soft);
    check_against_loops(3, 1, plain_batch(2), soft);
    check_against_loops(2, 3, masked_batch(), soft);
    check_against_loops(2, 1, packed_batch(), soft);
  }
}

TEST_CASE("heads do not reach over the end of a document or over padding") {
  const auto draft = random_draft(config_of(2, 1, "label"));
  const auto packed = draft->loss(Base(7).outputs, packed_batch());
  CHECK(packed.steps[0].count.item<double>() == 2 + 1 + 0 + 3);
  CHECK(packed.steps[1].count.item<double>() == 1 + 0 + 0 + 2);
  const auto masked = draft->loss(Base(7).outputs, masked_batch());
  CHECK(masked.steps[0].count.item<double>() == 3 + 2);
}

TEST_CASE("a stored pass teaches with the logits it holds") {
  const auto draft = random_draft(config_of(2, 1, "teacher"));
  Base base(6);
  const auto computed = draft->loss(base.outputs, plain_batch(6)).total;
  base.outputs.logits = at::linear(base.outputs.last_hidden, base.head->weight());
  CHECK(largest_difference(draft->loss(base.outputs, plain_batch(6)).total, computed) < 1e-12);
  base.outputs.logits = base.outputs.logits * 2;
  CHECK(largest_difference(draft->loss(base.outputs, plain_batch(6)).total, computed) > 1e-3);
}

TEST_CASE("Hydra's gradients equal finite differences, those of the base's outputs too") {
  for (const char* kind : {"label", "teacher"}) {
    const auto draft = random_draft(config_of(2, 2, kind));
    Base base(7);
    base.outputs.input_embeddings.requires_grad_();
    const auto loss = [&] { return draft->loss(base.outputs, packed_batch()).total; };
    loss().backward();
    auto tensors = draft->parameters();
    tensors.push_back(base.outputs.input_embeddings);
    const at::NoGradGuard no_grad;
    for (auto& tensor : tensors) {
      auto* value = tensor.data_ptr<double>();
      const auto moved = [&](double step) {
        value[2] += step;
        const double result = loss().item<double>();
        value[2] -= step;
        return result;
      };
      const double slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
      CHECK(std::abs(tensor.grad().data_ptr<double>()[2] - slope) < 1e-8);
    }
  }
}

TEST_CASE("a head reads the tokens before its target, and nothing after them") {
  const auto draft = random_draft(config_of(2, 1, "label"));
  auto batch = plain_batch(6);
  at::Tensor logits;
  batch.recorder = [&](const std::string& name, const at::Tensor& tensor) {
    if (name == "hydra_logits.1") logits = tensor.clone();
  };
  Base base(6);
  draft->loss(base.outputs, batch);
  const auto before = logits;
  CHECK(before.sizes() == at::IntArrayRef({kBatch, 4, kVocabulary}));
  base.outputs.input_embeddings.select(1, 4).add_(1.0);
  draft->loss(base.outputs, batch);
  const auto changed = (logits - before).abs().amax({0, 2});
  CHECK(changed[0].item<double>() == 0.0);
  CHECK(changed[1].item<double>() == 0.0);
  CHECK(changed[2].item<double>() > 1e-6);
  CHECK(changed[3].item<double>() > 1e-6);
}

}  // namespace
}  // namespace hydra::testing
