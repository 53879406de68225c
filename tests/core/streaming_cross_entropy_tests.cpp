#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "gradcheck.h"
#include "outrider/ops/streaming_cross_entropy.h"

namespace outrider::testing {
namespace {

using ops::StreamingLoss;
using ops::TeacherTargets;

struct Sizes {
  int64_t steps, rows, hidden, vocabulary;
};

struct Problem {
  at::Tensor students, head, weights, teacher_rows, teacher_head, labels;

  TeacherTargets teacher() const {
    return {teacher_rows,
            [head = teacher_head](const at::Tensor& r) { return at::linear(r, head); },
            {}};
  }
};

Problem problem_of(const Sizes& s, at::ScalarType type) {
  Problem p{random({s.steps, s.rows, s.hidden}, 1, type),
            random({s.vocabulary, s.hidden}, 2, type),
            random({s.steps, s.rows}, 3).abs().to(type == at::kDouble ? type : at::kFloat),
            random({s.rows, s.hidden}, 4, type),
            random({s.vocabulary, s.hidden}, 5, type),
            random_ids({s.rows}, s.vocabulary, 6)};
  if (s.rows > 1) p.weights.select(1, 1).zero_();
  return p;
}

/// What the losses, metrics and gradients of one row are, by loops in double.
struct RowOracle {
  double loss = 0.0, correct = 0.0, overlap = 0.0;
  std::vector<double> d_logits;
};

std::vector<double> values_of(const at::Tensor& row) {
  const auto wide = row.to(at::kDouble).contiguous();
  return {wide.data_ptr<double>(), wide.data_ptr<double>() + wide.numel()};
}

double log_sum_exp(const std::vector<double>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const double logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

size_t first_maximum(const std::vector<double>& logits) {
  return static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

RowOracle soft_row(const std::vector<double>& student, const std::vector<double>& teacher,
                   std::optional<double> full_log_sum_exp = {}) {
  const double lse = log_sum_exp(student), teacher_lse = log_sum_exp(teacher);
  RowOracle row;
  for (size_t v = 0; v < student.size(); ++v) {
    const double p = std::exp(teacher[v] - teacher_lse), q = std::exp(student[v] - lse);
    row.loss += p * (lse - student[v]);
    row.overlap += std::min(std::exp(teacher[v] - full_log_sum_exp.value_or(teacher_lse)), q);
    row.d_logits.push_back(q - p);
  }
  row.correct = first_maximum(student) == first_maximum(teacher) ? 1.0 : 0.0;
  return row;
}

RowOracle label_row(const std::vector<double>& student, size_t label) {
  const double lse = log_sum_exp(student);
  RowOracle row{lse - student[label],
                first_maximum(student) == label ? 1.0 : 0.0,
                std::exp(student[label] - lse),
                {}};
  for (size_t v = 0; v < student.size(); ++v) {
    row.d_logits.push_back(std::exp(student[v] - lse) - (v == label ? 1.0 : 0.0));
  }
  return row;
}

/// The whole problem by loops; logits are rounded to the inputs' type as the product rounds them.
struct Oracle {
  double total = 0.0;
  at::Tensor loss, correct, overlap, d_students, d_head;
};

RowOracle oracle_row(const Problem& p, const at::Tensor& logits, int64_t n, bool soft,
                     const at::Tensor& full_log_sum_exp) {
  if (!soft) return label_row(values_of(logits), static_cast<size_t>(p.labels[n].item<int64_t>()));
  std::optional<double> full;
  if (full_log_sum_exp.defined()) full = full_log_sum_exp[n].item<double>();
  const auto teacher = at::linear(p.teacher_rows.slice(0, n, n + 1), p.teacher_head);
  return soft_row(values_of(logits), values_of(teacher[0]), full);
}

Oracle oracle_of(const Problem& p, bool soft, const at::Tensor& full_log_sum_exp = {}) {
  const auto zeros = at::zeros(p.weights.sizes(), at::kDouble);
  Oracle all{0.0,
             zeros.clone(),
             zeros.clone(),
             zeros.clone(),
             at::zeros(p.students.sizes(), at::kDouble),
             at::zeros(p.head.sizes(), at::kDouble)};
  for (int64_t t = 0; t < p.students.size(0); ++t) {
    for (int64_t n = 0; n < p.students.size(1); ++n) {
      const auto logits = at::linear(p.students[t].slice(0, n, n + 1), p.head)[0];
      auto row = oracle_row(p, logits, n, soft, full_log_sum_exp);
      const double weight = p.weights[t][n].item<double>();
      all.total += weight * row.loss;
      all.loss[t][n] = row.loss;
      all.correct[t][n] = row.correct;
      all.overlap[t][n] = row.overlap;
      const auto d_logits = at::tensor(at::ArrayRef<double>(row.d_logits), at::kDouble) * weight;
      all.d_students[t][n] = at::mv(p.head.to(at::kDouble).t(), d_logits);
      all.d_head += at::outer(d_logits, p.students[t][n].to(at::kDouble));
    }
  }
  return all;
}

StreamingLoss run(const Problem& p, bool soft, const at::Tensor& full_log_sum_exp = {}) {
  if (!soft) return ops::streaming_cross_entropy(p.students, p.head, p.labels, p.weights);
  auto teacher = p.teacher();
  teacher.full_log_sum_exp = full_log_sum_exp;
  return ops::streaming_cross_entropy(p.students, p.head, teacher, p.weights);
}

void check_against_loops(const Sizes& sizes, at::ScalarType type, bool soft, double tolerance,
                         double gradient_tolerance) {
  CAPTURE(at::toString(type));
  CAPTURE(soft);
  CAPTURE(sizes.steps);
  auto p = problem_of(sizes, type);
  const auto expected = oracle_of(p, soft);
  p.students.requires_grad_();
  p.head.requires_grad_();
  const auto actual = run(p, soft);
  CHECK((actual.rows.loss.scalar_type() == (type == at::kDouble ? at::kDouble : at::kFloat)));
  CHECK(actual.total.item<double>() ==
        doctest::Approx(expected.total).epsilon(tolerance / (1.0 + std::abs(expected.total))));
  CHECK_CLOSE(actual.rows.loss, expected.loss, tolerance);
  CHECK_CLOSE(actual.rows.correct, expected.correct, 0.0);
  CHECK_CLOSE(actual.rows.overlap, expected.overlap, tolerance);
  const auto gradients = torch::autograd::grad({actual.total}, {p.students, p.head});
  CHECK((gradients[0].scalar_type() == type));
  CHECK((gradients[1].scalar_type() == type));
  CHECK_CLOSE(gradients[0], expected.d_students, gradient_tolerance);
  CHECK_CLOSE(gradients[1], expected.d_head, gradient_tolerance);
}

TEST_CASE("streaming cross-entropy equals loops over soft and hard targets") {
  for (const bool soft : {true, false}) {
    for (const int64_t steps : {1, 2, 3}) {
      const Sizes sizes{steps, 7, 5, 37};
      check_against_loops(sizes, at::kDouble, soft, 1e-11, 1e-11);
      check_against_loops(sizes, at::kFloat, soft, 2e-5, 2e-5);
      check_against_loops(sizes, at::kBFloat16, soft, 2e-4, 0.05);
      check_against_loops(sizes, at::kHalf, soft, 2e-4, 0.01);
    }
  }
}

// Two steps over 110 000 float64 logits leave room for 28 rows in a chunk: 17 and 16.
TEST_CASE("streaming cross-entropy adds up over chunks of rows") {
  check_against_loops({2, 33, 2, 110000}, at::kDouble, true, 1e-9, 1e-9);
  check_against_loops({2, 33, 2, 110000}, at::kDouble, false, 1e-9, 1e-9);
}

TEST_CASE("streaming cross-entropy's gradients equal finite differences") {
  const auto p = problem_of({2, 4, 3, 11}, at::kDouble);
  for (const bool soft : {true, false}) {
    check_gradients(
        [&](const auto& inputs) {
          auto changed = p;
          changed.students = inputs[0];
          changed.head = inputs[1];
          return run(changed, soft).total;
        },
        {p.students, p.head});
  }
}

TEST_CASE("the teacher and the row weights get no gradient") {
  auto p = problem_of({2, 4, 3, 11}, at::kDouble);
  for (auto* tensor : {&p.students, &p.weights, &p.teacher_rows, &p.teacher_head}) {
    tensor->requires_grad_();
  }
  run(p, true).total.backward();
  CHECK(p.students.grad().defined());
  CHECK_FALSE(p.weights.grad().defined());
  CHECK_FALSE(p.teacher_rows.grad().defined());
  CHECK_FALSE(p.teacher_head.grad().defined());
}

TEST_CASE("a gradient is computed only for what requires one") {
  for (const bool soft : {true, false}) {
    auto both = problem_of({2, 4, 3, 11}, at::kDouble);
    both.students.requires_grad_();
    both.head.requires_grad_();
    const auto expected =
        torch::autograd::grad({run(both, soft).total}, {both.students, both.head});
    auto rows_only = problem_of({2, 4, 3, 11}, at::kDouble);
    rows_only.students.requires_grad_();
    run(rows_only, soft).total.backward();
    CHECK_CLOSE(rows_only.students.grad(), expected[0], 0.0);
    auto head_only = problem_of({2, 4, 3, 11}, at::kDouble);
    head_only.head.requires_grad_();
    run(head_only, soft).total.backward();
    CHECK_CLOSE(head_only.head.grad(), expected[1], 0.0);
    CHECK_FALSE(run(problem_of({2, 4, 3, 11}, at::kDouble), soft).total.requires_grad());
  }
}

TEST_CASE("backward scales with what comes after, and can run twice") {
  auto p = problem_of({2, 4, 3, 11}, at::kDouble);
  p.students.requires_grad_();
  p.head.requires_grad_();
  const auto total = run(p, true).total;
  const auto once = torch::autograd::grad({total}, {p.students, p.head}, {}, /*retain_graph=*/true);
  const auto scaled = torch::autograd::grad({total * -2.5}, {p.students, p.head}, {}, true);
  const auto again = torch::autograd::grad({total}, {p.students, p.head});
  for (size_t i = 0; i < once.size(); ++i) {
    CHECK(once[i].abs().max().item<double>() > 1e-3);
    CHECK_CLOSE(again[i], once[i], 0.0);
    CHECK_CLOSE(scaled[i], once[i] * -2.5, 1e-14);
  }
}

TEST_CASE("without gradients the values are the same") {
  auto p = problem_of({2, 6, 3, 19}, at::kFloat);
  p.students.requires_grad_();
  for (const bool soft : {true, false}) {
    const auto training = run(p, soft);
    const at::NoGradGuard no_grad;
    const auto watching = run(p, soft);
    CHECK_FALSE(watching.total.requires_grad());
    CHECK_CLOSE(watching.total, training.total, 1e-6);
    CHECK_CLOSE(watching.rows.loss, training.rows.loss, 1e-6);
    CHECK_CLOSE(watching.rows.correct, training.rows.correct, 0.0);
    CHECK_CLOSE(watching.rows.overlap, training.rows.overlap, 1e-6);
    CHECK_FALSE(training.rows.loss.requires_grad());
  }
}

TEST_CASE("inputs are left as they were") {
  const auto p = problem_of({2, 6, 3, 19}, at::kFloat);
  auto copy = p;
  copy.students = p.students.clone().requires_grad_();
  copy.head = p.head.clone().requires_grad_();
  run(copy, true).total.backward();
  CHECK_CLOSE(copy.students, p.students, 0.0);
  CHECK_CLOSE(copy.head, p.head, 0.0);
}

TEST_CASE("rows of weight zero count for nothing, whatever their label") {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    auto p = problem_of({1, 3, 4, 9}, type);
    p.weights = at::tensor({1.0, 0.0, 0.0}, p.weights.options()).view({1, 3});
    p.labels = at::tensor({2, -100, 9}, at::kLong);
    p.students.requires_grad_();
    p.head.requires_grad_();
    const auto loss = run(p, false);
    auto alone = problem_of({1, 3, 4, 9}, type);
    alone.students = alone.students.slice(1, 0, 1).contiguous().requires_grad_();
    alone.head.requires_grad_();
    alone.labels = p.labels.slice(0, 0, 1);
    alone.weights = p.weights.slice(1, 0, 1);
    const auto expected = run(alone, false);
    CHECK_CLOSE(loss.total, expected.total, 1e-6);
    const auto gradients = torch::autograd::grad({loss.total}, {p.students, p.head});
    const auto wanted = torch::autograd::grad({expected.total}, {alone.students, alone.head});
    CHECK_CLOSE(gradients[0].slice(1, 0, 1), wanted[0], 1e-6);
    CHECK(gradients[0].slice(1, 1).abs().max().item<double>() == 0.0);
    CHECK_CLOSE(gradients[1], wanted[1], 1e-6);
  }
}

TEST_CASE("the overlap can count the teacher's share of a larger vocabulary") {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const auto p = problem_of({2, 5, 4, 9}, type);
    const auto lse = at::linspace(4.0, 6.0, 5, p.weights.options());
    const auto expected = oracle_of(p, true, lse), own = oracle_of(p, true);
    const auto actual = run(p, true, lse);
    CHECK_CLOSE(actual.rows.overlap, expected.overlap, 1e-4);
    CHECK_CLOSE(actual.rows.loss, own.loss, 1e-4);
    CHECK(largest_difference(expected.overlap, own.overlap) > 1e-2);
  }
}

TEST_CASE("of equal logits the first counts as the argmax") {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    auto head = at::zeros({40, 1}, type);
    head[17] = head[31] = 2.0;
    const auto rows = at::ones({1, 1}, type);
    CHECK(ops::streaming_logit_statistics(rows, head).argmax[0].item<int64_t>() == 17);
    const auto weights = at::ones({1, 1});
    const auto hit = [&](int64_t label) {
      return ops::streaming_cross_entropy(rows.unsqueeze(0), head, at::tensor({label}, at::kLong),
                                          weights)
          .rows.correct.item<double>();
    };
    CHECK(hit(17) == 1.0);
    CHECK(hit(31) == 0.0);
    auto later = at::zeros({40, 1}, type);
    later[31] = 2.0;
    const TeacherTargets teacher{
        rows, [later](const at::Tensor& r) { return at::linear(r, later); }, {}};
    CHECK(ops::streaming_cross_entropy(rows.unsqueeze(0), head, teacher, weights)
              .rows.correct.item<double>() == 0.0);
  }
}

TEST_CASE("logit statistics equal loops, over several chunks too") {
  struct Size {
    int64_t rows, vocabulary;
  };
  for (const auto& [rows, vocabulary] : {Size{5, 23}, Size{19, 800000}}) {
    const auto x = random({rows, 2}, 1, at::kFloat), head = random({vocabulary, 2}, 2, at::kFloat);
    const auto actual = ops::streaming_logit_statistics(x, head);
    for (int64_t n = 0; n < rows; ++n) {
      const auto logits = values_of(at::linear(x.slice(0, n, n + 1), head)[0]);
      CHECK(actual.log_sum_exp[n].item<double>() ==
            doctest::Approx(log_sum_exp(logits)).epsilon(1e-5));
      CHECK(actual.argmax[n].item<int64_t>() == static_cast<int64_t>(first_maximum(logits)));
    }
  }
}

TEST_CASE("one weight may stand for all rows") {
  for (const bool soft : {true, false}) {
    auto one = problem_of({1, 600, 3, 5}, at::kFloat);
    one.weights = at::full({1, 1}, 0.5).expand({1, 600});
    auto all = one;
    all.weights = one.weights.contiguous();
    one.students = one.students.clone().requires_grad_();
    all.students = all.students.clone().requires_grad_();
    const auto found = run(one, soft), expected = run(all, soft);
    CHECK_CLOSE(found.total, expected.total, 1e-3);
    CHECK_CLOSE(found.rows.loss, expected.rows.loss, 0.0);
    CHECK_CLOSE(torch::autograd::grad({found.total}, {one.students})[0],
                torch::autograd::grad({expected.total}, {all.students})[0], 0.0);
  }
}

TEST_CASE("no rows at all give a loss of zero and zero gradients") {
  for (const bool soft : {true, false}) {
    auto p = problem_of({2, 0, 3, 5}, at::kFloat);
    p.students.requires_grad_();
    p.head.requires_grad_();
    const auto loss = run(p, soft);
    CHECK(loss.total.item<double>() == 0.0);
    CHECK(loss.rows.loss.sizes() == at::IntArrayRef({2, 0}));
    const auto gradients = torch::autograd::grad({loss.total}, {p.students, p.head});
    CHECK(gradients[0].sizes() == p.students.sizes());
    CHECK_CLOSE(gradients[1], at::zeros({5, 3}), 0.0);
  }
  CHECK(ops::streaming_logit_statistics(at::zeros({0, 3}), at::ones({5, 3})).argmax.numel() == 0);
}

at::Tensor with_column(const at::Tensor& matrix, const at::Tensor& column) {
  return at::cat({matrix, column.unsqueeze(-1)}, -1);
}

TEST_CASE("a bias is one more column of the head, for inputs of one") {
  const auto p = problem_of({2, 4, 3, 11}, at::kDouble);
  const auto bias = random({11}, 7).requires_grad_();
  auto wider = p;
  wider.students = with_column(p.students, at::ones({2, 4}, at::kDouble));
  wider.head = with_column(p.head, bias.detach()).requires_grad_();
  const auto with_bias = [&](const at::Tensor& b, bool soft) {
    return soft ? ops::streaming_cross_entropy(p.students, p.head, p.teacher(), p.weights, b)
                : ops::streaming_cross_entropy(p.students, p.head, p.labels, p.weights, b);
  };
  for (const bool soft : {true, false}) {
    const auto actual = with_bias(bias, soft), expected = run(wider, soft);
    CHECK_CLOSE(actual.rows.loss, expected.rows.loss, 1e-14);
    CHECK_CLOSE(actual.rows.overlap, expected.rows.overlap, 1e-14);
    const auto gradient = torch::autograd::grad({actual.total}, {bias})[0];
    CHECK_CLOSE(gradient, torch::autograd::grad({expected.total}, {wider.head})[0].select(1, 3),
                1e-14);
    check_gradients([&](const auto& in) { return with_bias(in[0], soft).total; }, {bias});
  }
}

TEST_CASE("streaming cross-entropy refuses weights of another shape") {
  const auto p = problem_of({2, 4, 3, 11}, at::kFloat);
  CHECK_CONTAINS(failure(ErrorCode::kInternal,
                         [&] {
                           ops::streaming_cross_entropy(p.students, p.head, p.labels,
                                                        p.weights.slice(1, 1));
                         }),
                 "row_weights [T,N]");
}

}  // namespace
}  // namespace outrider::testing
