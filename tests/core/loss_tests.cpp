#include <algorithm>
#include <vector>

#include "gradcheck.h"
#include "outrider/loss/step_metrics.h"
#include "outrider/loss/teacher.h"
#include "outrider/loss/trained_rows.h"

namespace outrider::testing::loss_tests {
namespace {

using loss::RowRule;

constexpr int64_t kBatch = 3, kLength = 7, kVocabulary = 11, kHidden = 5;

at::Tensor table(std::vector<int64_t> values) {
  return at::tensor(values, at::kLong).view({kBatch, kLength});
}

// Padding on both sides and a hole; a mask of targets; documents.
TrainBatch batch_of(bool masked) {
  TrainBatch batch{.input_ids = random_ids({kBatch, kLength}, kVocabulary, 3)};
  if (!masked) return batch;
  batch.attention_mask = table({1, 1, 1, 1, 1, 0, 0,  //
                                0, 1, 1, 1, 1, 1, 1,  //
                                1, 1, 0, 1, 1, 1, 1});
  batch.loss_mask = table({1, 1, 0, 1, 1, 1, 1,  //
                           1, 1, 1, 1, 0, 1, 1,  //
                           1, 1, 1, 1, 1, 1, 1});
  batch.document_ids = table({0, 0, 0, 0, 0, 0, 0,  //
                              4, 4, 4, 4, 9, 9, 9,  //
                              2, 2, 2, 2, 2, 2, 2});
  return batch;
}

int64_t value(const at::Tensor& tensor, int64_t b, int64_t t) {
  return tensor.defined() ? tensor[b][t].item<int64_t>() : 1;
}

bool is_allowed(const TrainBatch& batch, RowRule rule, int64_t b, int64_t row, int64_t target) {
  if (rule == RowRule::kAny) return true;
  if (rule == RowRule::kToken) return value(batch.attention_mask, b, row) != 0;
  for (int64_t t = row; t <= target; ++t) {
    if (value(batch.attention_mask, b, t) == 0) return false;
    if (value(batch.document_ids, b, t) != value(batch.document_ids, b, row)) return false;
  }
  return true;
}

struct Row {
  int64_t index, label;
  bool operator==(const Row&) const = default;
};

std::vector<Row> rows_by_loops(const TrainBatch& batch, int64_t ahead, RowRule rule) {
  std::vector<Row> rows;
  for (int64_t b = 0; b < kBatch; ++b) {
    for (int64_t t = 0; t + ahead < kLength; ++t) {
      const bool is_target = value(batch.attention_mask, b, t + ahead) != 0 &&
                             value(batch.loss_mask, b, t + ahead) != 0;
      if (!is_target || !is_allowed(batch, rule, b, t, t + ahead)) continue;
      rows.push_back({b * kLength + t, batch.input_ids[b][t + ahead].item<int64_t>()});
    }
  }
  return rows;
}

std::vector<Row> rows_of(const loss::ShiftedTargets& targets) {
  std::vector<Row> rows;
  const auto index = targets.rows.index();
  for (int64_t n = 0; n < index.size(0); ++n) {
    rows.push_back({index[n].item<int64_t>(), targets.labels[n].item<int64_t>()});
    CHECK(targets.rows.weight[n].item<float>() == 1.0F);
  }
  return rows;
}

}  // namespace

TEST_CASE("no rule pairs a row with a token of another document, where attention keeps to them") {
  auto batch = batch_of(/*masked=*/true);
  for (const auto rule : {RowRule::kConnected, RowRule::kToken, RowRule::kAny}) {
    for (const int64_t ahead : {1, 2, 3}) {
      CAPTURE(static_cast<int>(rule));
      CAPTURE(ahead);
      batch.documents.reset();
      std::vector<Row> expected;
      for (const auto& row : rows_by_loops(batch, ahead, rule)) {
        const int64_t b = row.index / kLength, t = row.index % kLength;
        const auto& ids = batch.document_ids;
        if (value(ids, b, t) == value(ids, b, t + ahead)) expected.push_back(row);
      }
      batch.documents = ops::documents_of(batch.document_ids);
      CHECK((rows_of(loss::shifted_targets(batch, ahead, rule)) == expected));
    }
  }
}

TEST_CASE("rows and their targets are those of loops, for every rule") {
  for (const bool masked : {false, true}) {
    const auto batch = batch_of(masked);
    for (const auto rule : {RowRule::kConnected, RowRule::kToken, RowRule::kAny}) {
      for (int64_t ahead = 1; ahead <= kLength + 1; ++ahead) {
        CAPTURE(masked);
        CAPTURE(ahead);
        const bool equal =
            rows_of(loss::shifted_targets(batch, ahead, rule)) == rows_by_loops(batch, ahead, rule);
        CHECK(equal);
      }
    }
  }
  const auto masked = batch_of(true);
  const auto count = [&](RowRule rule) { return rows_by_loops(masked, 2, rule).size(); };
  CHECK(count(RowRule::kConnected) < count(RowRule::kToken));
  CHECK(count(RowRule::kToken) < count(RowRule::kAny));
}

TEST_CASE("labels decide where they are given") {
  auto batch = batch_of(false);
  batch.labels = random_ids({kBatch, kLength}, kVocabulary, 8)
                     .masked_fill(random_mask({kBatch, kLength}, 0.4, 9), -100);
  const auto targets = loss::shifted_targets(batch, 2);
  const auto index = targets.rows.index(1);  // labels[t] is the token after t
  const auto flat = batch.labels.flatten().index_select(0, index);
  CHECK(at::equal(flat, targets.labels));
  CHECK(flat.ge(0).all().item<bool>());
  CHECK(targets.rows.weight.size(0) == batch.labels.slice(1, 1, -1).ne(-100).sum().item<int64_t>());
}

TEST_CASE("rows are placed in sequences, and counted from there") {
  const auto weights = at::tensor({0, 1, 0, 0, 1, 1}, at::kFloat).view({2, 3});
  const auto rows = loss::trained_rows(weights, 10);
  CHECK(at::equal(rows.sequence, at::tensor({0, 1, 1}, at::kLong)));
  CHECK(at::equal(rows.position, at::tensor({1, 1, 2}, at::kLong)));
  CHECK(at::equal(rows.index(4), at::tensor({5, 15, 16}, at::kLong)));
  CHECK(loss::trained_rows(at::zeros({2, 0}), 1).weight.size(0) == 0);
}

TEST_CASE("a step's loss is the mean over what is trained, and its metrics too") {
  const auto students = random({1, 6, kHidden}, 1), head = random({kVocabulary, kHidden}, 2);
  const auto labels = random_ids({6}, kVocabulary, 3);
  const auto weight = at::tensor({1, 0, 1, 1, 0, 1}, at::kFloat);
  DraftLoss sum;
  for (const double scale : {0.5, 2.0}) {
    const auto result =
        ops::streaming_cross_entropy(students, head, labels, loss::mean_weights(weight));
    loss::add_step(sum, "head", result, weight, scale);
  }
  const auto logits = at::linear(students[0], head);
  const auto log_q = at::log_softmax(logits, 1).gather(1, labels.unsqueeze(1)).squeeze(1);
  const auto mean = [&](const at::Tensor& x) { return (x * weight).sum().item<double>() / 4; };
  REQUIRE(sum.steps.size() == 2);
  CHECK(sum.total.item<double>() == doctest::Approx(2.5 * mean(-log_q)));
  for (const auto& step : sum.steps) {
    CHECK(step.name == "head");
    CHECK(step.loss.item<double>() == doctest::Approx(mean(-log_q)));
    CHECK(step.accuracy.item<double>() == doctest::Approx(mean(logits.argmax(1).eq(labels))));
    CHECK(step.overlap.item<double>() == doctest::Approx(mean(log_q.exp())));
    CHECK(step.count.item<double>() == 4.0);
  }
}

TEST_CASE("losses and metrics of a batch's parts are shares of the whole batch's") {
  const auto students = random({1, 6, kHidden}, 1), head = random({kVocabulary, kHidden}, 2);
  const auto labels = random_ids({6}, kVocabulary, 3);
  const auto weight = at::tensor({1, 0, 1, 1, 0, 1}, at::kFloat);
  TrainBatch batch;
  CHECK(batch.total_count(weight.sum()).item<double>() == 4.0);
  batch.sum_over_processes = [&](const at::Tensor&) { return weight.sum(); };
  const auto loss_of = [&](int64_t begin, int64_t end) {
    const auto part = weight.slice(0, begin, end);
    const auto total = batch.total_count(part.sum());
    DraftLoss sum;
    const auto result =
        ops::streaming_cross_entropy(students.slice(1, begin, end), head,
                                     labels.slice(0, begin, end), loss::mean_weights(part, total));
    loss::add_step(sum, "head", result, part, 2.0, total);
    return at::stack({sum.total, sum.steps[0].loss, sum.steps[0].accuracy, sum.steps[0].overlap,
                      sum.steps[0].count});
  };
  // The parts have one row and three; the last has none.
  CHECK(at::allclose(loss_of(0, 2) + loss_of(2, 6) + loss_of(4, 5), loss_of(0, 6)));
}

TEST_CASE("a step without rows has zeros, and losses may be divided by another number") {
  const auto weights = at::tensor({1, 1, 0, 0, 0, 0}, at::kFloat).view({2, 3});
  const ops::RowMetrics rows{random({2, 3}, 1).abs(), at::ones({2, 3}), random({2, 3}, 2).abs()};
  const auto plain = loss::step_metrics({"a", "b"}, rows, weights);
  CHECK(plain[0].loss.item<double>() ==
        doctest::Approx(rows.loss[0].slice(0, 0, 2).mean().item<double>()));
  CHECK(plain[0].accuracy.item<double>() == 1.0);
  CHECK(plain[1].name == "b");
  for (const auto& tensor : {plain[1].loss, plain[1].accuracy, plain[1].overlap, plain[1].count}) {
    CHECK(tensor.item<double>() == 0.0);
  }
  const auto other = loss::step_metrics({"a", "b"}, rows, weights, at::full({2}, 8.0));
  CHECK(other[0].loss.item<double>() == doctest::Approx(plain[0].loss.item<double>() / 4));
  CHECK(other[0].accuracy.item<double>() == 1.0);
}

TEST_CASE("the base teaches the tokens that a draft knows, computed now or stored") {
  const auto ids = random_ids({2, 4}, kVocabulary, 3);
  RandomBase base(ids, kVocabulary, kHidden);
  const auto known = at::tensor({2, 3, 7, 10}, at::kLong), rows = at::tensor({6, 1, 3}, at::kLong);
  const auto whole =
      at::linear(base.outputs.last_hidden.flatten(0, 1).index_select(0, rows), base.head->weight());
  auto stored = base.outputs;
  stored.logits = at::linear(base.outputs.last_hidden, base.head->weight());
  for (const auto& outputs : {base.outputs, stored}) {
    const auto all = loss::Teacher(outputs).targets(rows);
    CHECK_CLOSE(all.logits(all.rows), whole, 1e-13);
    const loss::Teacher teacher(outputs, known);
    auto some = teacher.targets(rows);
    CHECK_CLOSE(some.logits(some.rows), whole.index_select(1, known), 1e-13);
    const auto hits = teacher.measure_whole_vocabulary(rows, some);
    CHECK_CLOSE(some.full_log_sum_exp, at::logsumexp(whole, 1), 1e-13);
    for (int64_t n = 0; n < 3; ++n) {
      CHECK(hits[n].item<bool>() == known.eq(whole[n].argmax()).any().item<bool>());
    }
  }
}

}  // namespace outrider::testing::loss_tests
