#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gradcheck.h"
#include "outrider/ops/streaming_cross_entropy.h"

namespace outrider::testing::divergence_tests {
namespace {

using Values = std::vector<double>;

// With the identity for a head the students' rows are their logits.
ops::StreamingLoss run(Divergence divergence, const at::Tensor& students, const at::Tensor& teacher,
                       const at::Tensor& weights) {
  const auto identity = at::eye(teacher.size(1), teacher.options());
  const ops::TeacherTargets targets{teacher, [](const at::Tensor& rows) { return rows; }, {}};
  return ops::streaming_cross_entropy(students, identity, targets, weights, {}, divergence);
}

Values values_of(const at::Tensor& row) {
  const auto wide = row.to(at::kDouble).contiguous();
  return {wide.data_ptr<double>(), wide.data_ptr<double>() + wide.numel()};
}

Values softmax(const Values& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  Values result;
  double sum = 0.0;
  for (const double logit : logits) sum += result.emplace_back(std::exp(logit - top));
  for (double& value : result) value /= sum;
  return result;
}

double overlap_of(const Values& p, const Values& q) {
  double sum = 0.0;
  for (size_t v = 0; v < p.size(); ++v) sum += std::min(p[v], q[v]);
  return sum;
}

// The definitions, token by token.
double loss_of(Divergence divergence, const Values& p, const Values& q) {
  double sum = 0.0;
  for (size_t v = 0; v < p.size(); ++v) {
    const double m = (p[v] + q[v]) / 2;
    switch (divergence) {
      case Divergence::kCrossEntropy:
        sum -= p[v] * std::log(q[v]);
        break;
      case Divergence::kReverseKl:
        sum += q[v] * std::log(q[v] / p[v]);
        break;
      case Divergence::kJensenShannon:
        sum += (p[v] * std::log(p[v] / m) + q[v] * std::log(q[v] / m)) / 2;
        break;
      case Divergence::kTotalVariation:
        sum += std::abs(p[v] - q[v]) / 2;
        break;
      case Divergence::kLogAcceptance:
        sum = -std::log(overlap_of(p, q));
        break;
    }
  }
  return sum;
}

// ∂loss/∂q of a token, all q on their own.
double slope_of(Divergence divergence, const Values& p, const Values& q, size_t v) {
  const double sign = q[v] > p[v] ? 1.0 : q[v] < p[v] ? -1.0 : 0.0;
  switch (divergence) {
    case Divergence::kCrossEntropy:
      return -p[v] / q[v];
    case Divergence::kReverseKl:
      return std::log(q[v] / p[v]) + 1.0;
    case Divergence::kJensenShannon:
      return std::log(2.0 * q[v] / (p[v] + q[v])) / 2;
    case Divergence::kTotalVariation:
      return sign / 2;
    case Divergence::kLogAcceptance:
      return (sign - 1.0) / 2 / overlap_of(p, q);
  }
  return 0.0;
}

// ∂q_v/∂s_u = q_v ([v = u] - q_u).
Values gradient_of(Divergence divergence, const Values& p, const Values& q) {
  Values gradient(q.size(), 0.0);
  for (size_t u = 0; u < q.size(); ++u) {
    for (size_t v = 0; v < q.size(); ++v) {
      gradient[u] += slope_of(divergence, p, q, v) * q[v] * ((v == u ? 1.0 : 0.0) - q[u]);
    }
  }
  return gradient;
}

struct Case {
  at::Tensor students, teacher, weights;  // [T,N,V], [N,V], [T,N]
};

Case case_of(int64_t steps, int64_t rows, int64_t vocabulary, at::ScalarType type) {
  Case c{random({steps, rows, vocabulary}, 1, type), random({rows, vocabulary}, 2, type),
         random({steps, rows}, 3).abs().to(type == at::kDouble ? type : at::kFloat)};
  if (rows > 1) c.weights.select(1, 1).zero_();
  return c;
}

void check_row(const ops::StreamingLoss& actual, const at::Tensor& gradient, const Case& c,
               Divergence divergence, int64_t t, int64_t n, double tolerance, double of_gradient) {
  const auto q = softmax(values_of(c.students[t][n])), p = softmax(values_of(c.teacher[n]));
  const double loss = loss_of(divergence, p, q);
  CHECK(std::abs(actual.rows.loss[t][n].item<double>() - loss) <= tolerance * (1 + loss));
  CHECK(std::abs(actual.rows.overlap[t][n].item<double>() - overlap_of(p, q)) <= tolerance);
  const auto best = [](const Values& x) {
    return std::max_element(x.begin(), x.end()) - x.begin();
  };
  CHECK(actual.rows.correct[t][n].item<double>() == (best(p) == best(q) ? 1.0 : 0.0));
  const double weight = c.weights[t][n].item<double>();
  const auto expected = gradient_of(divergence, p, q), found = values_of(gradient[t][n]);
  double largest = 0.0;
  for (size_t v = 0; v < expected.size(); ++v) {
    largest = std::max(largest, std::abs(found[v] - weight * expected[v]));
  }
  CHECK(largest <= of_gradient);
}

void check_against_loops(Divergence divergence, Case c, double tolerance, double of_gradient) {
  c.students.requires_grad_();
  const auto actual = run(divergence, c.students, c.teacher, c.weights);
  CHECK_CLOSE(actual.total, (actual.rows.loss * c.weights).sum(), 1e-5);
  const auto gradient = torch::autograd::grad({actual.total}, {c.students})[0];
  for (int64_t t = 0; t < c.students.size(0); ++t) {
    for (int64_t n = 0; n < c.students.size(1); ++n) {
      check_row(actual, gradient, c, divergence, t, n, tolerance, of_gradient);
    }
  }
}

double one_row(Divergence divergence, const at::Tensor& student, const at::Tensor& teacher) {
  return run(divergence, student.view({1, 1, -1}), teacher.view({1, -1}),
             at::ones({1, 1}, student.options()))
      .total.item<double>();
}

at::Tensor gradient_of_row(Divergence divergence, const at::Tensor& student,
                           const at::Tensor& teacher) {
  const auto rows = student.detach().clone().view({1, 1, -1}).requires_grad_();
  const auto total = run(divergence, rows, teacher.view({1, -1}), at::ones({1, 1})).total;
  return torch::autograd::grad({total}, {rows})[0].flatten();
}

at::Tensor logits_of(const Values& values, at::ScalarType type = at::kDouble) {
  return at::tensor(at::ArrayRef<double>(values), at::kDouble).to(type);
}

}  // namespace

TEST_CASE("every divergence equals loops over its definition, in value and gradient") {
  for (const auto& [name, divergence] : kDivergenceNames) {
    CAPTURE(std::string(name));
    for (const int64_t vocabulary : {1, 2, 31, 97, 260}) {
      CAPTURE(vocabulary);
      const auto of = [&](at::ScalarType type) { return case_of(3, 4, vocabulary, type); };
      check_against_loops(divergence, of(at::kDouble), 1e-12, 1e-12);
      check_against_loops(divergence, of(at::kFloat), 3e-6, 3e-6);
      check_against_loops(divergence, of(at::kHalf), 3e-6, 2e-3);
      check_against_loops(divergence, of(at::kBFloat16), 3e-6, 1e-2);
    }
  }
}

TEST_CASE("every divergence's gradient equals finite differences") {
  for (const auto& [name, divergence] : kDivergenceNames) {
    CAPTURE(std::string(name));
    const auto of = divergence;
    const auto c = case_of(2, 5, 13, at::kDouble);
    const auto hidden = random({2, 5, 4}, 6), head = random({13, 4}, 7);
    const ops::TeacherTargets teacher{c.teacher, [](const at::Tensor& rows) { return rows; }, {}};
    check_gradients(
        [&](const auto& inputs) {
          return ops::streaming_cross_entropy(inputs[0], inputs[1], teacher, c.weights, inputs[2],
                                              of)
              .total;
        },
        {hidden, head, random({13}, 8)});
  }
}

TEST_CASE("divergences have the values they have by definition") {
  const auto a = random({29}, 1) * 3, b = random({29}, 2) * 3;
  const double overlap = overlap_of(softmax(values_of(a)), softmax(values_of(b)));
  CHECK(one_row(Divergence::kTotalVariation, a, b) == doctest::Approx(1.0 - overlap));
  CHECK(one_row(Divergence::kLogAcceptance, a, b) == doctest::Approx(-std::log(overlap)));
  CHECK(one_row(Divergence::kJensenShannon, a, b) ==
        doctest::Approx(one_row(Divergence::kJensenShannon, b, a)));
  const double entropy = one_row(Divergence::kCrossEntropy, b, b);
  CHECK(one_row(Divergence::kReverseKl, b, a) ==
        doctest::Approx(one_row(Divergence::kCrossEntropy, a, b) - entropy));
}

TEST_CASE("a student that agrees with the teacher has no loss and no gradient") {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const auto logits = random({70}, 1).to(type);
    for (const auto& [name, divergence] : kDivergenceNames) {
      CAPTURE(std::string(name));
      if (divergence != Divergence::kCrossEntropy) {
        CHECK(std::abs(one_row(divergence, logits, logits)) < 1e-6);
      }
      CHECK(gradient_of_row(divergence, logits, logits).abs().max().item<double>() < 1e-6);
    }
  }
}

// Of the last token p and q are both one half, to the bit: a kink in its logit's direction and in
// the others'.
TEST_CASE("at a tie the gradient is the mean of both sides'") {
  const auto teacher = at::log(logits_of({0.3, 0.2, 0.5}));
  const auto student = at::log(logits_of({0.2, 0.3, 0.5}));
  constexpr double kStep = 1e-6;
  for (const auto divergence : {Divergence::kTotalVariation, Divergence::kLogAcceptance}) {
    const auto gradient = gradient_of_row(divergence, student, teacher);
    double kink = 0.0;
    for (int64_t v = 0; v < 3; ++v) {
      const auto at_step = [&](double step) {
        auto moved = student.clone();
        moved[v] += step;
        return one_row(divergence, moved, teacher);
      };
      const double here = at_step(0.0), above = (at_step(kStep) - here) / kStep;
      const double below = (here - at_step(-kStep)) / kStep;
      kink = std::max(kink, std::abs(above - below));
      CHECK(gradient[v].item<double>() == doctest::Approx((above + below) / 2).epsilon(1e-4));
    }
    CHECK(kink > 0.1);
    const auto narrow = gradient_of_row(divergence, student.to(at::kFloat), teacher.to(at::kFloat));
    CHECK_CLOSE(narrow, gradient, 1e-6);
  }
}

TEST_CASE("a student that is sure of what the teacher never says still has finite gradients") {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    CAPTURE(at::toString(type));
    const auto student = logits_of({200.0, -200.0, 0.0, -50.0}, type);
    const auto teacher = logits_of({-200.0, 200.0, -50.0, 0.0}, type);
    for (const auto& [name, divergence] : kDivergenceNames) {
      CAPTURE(std::string(name));
      CHECK(std::isfinite(one_row(divergence, student, teacher)));
      const auto gradient = gradient_of_row(divergence, student, teacher).to(at::kDouble);
      CHECK(gradient.isfinite().all().item<bool>());
      CHECK(gradient.abs().max().item<double>() <= 1.0 + 1e-3);
    }
    CHECK(one_row(Divergence::kTotalVariation, student, teacher) == doctest::Approx(1.0));
    CHECK(one_row(Divergence::kJensenShannon, student, teacher) == doctest::Approx(std::log(2.0)));
    CHECK(one_row(Divergence::kReverseKl, student, teacher) == doctest::Approx(400.0));
  }
}

// Half of what the student says overlaps with almost nothing of the teacher's.
TEST_CASE("the gradient of the acceptance's logarithm does not vanish with the acceptance") {
  for (const auto type : {at::kDouble, at::kFloat}) {
    const auto teacher = logits_of({40.0, 0.0, 0.0}, type),
               student = logits_of({0.0, 40.0, 0.0}, type);
    const auto of_rate = gradient_of_row(Divergence::kTotalVariation, student, teacher);
    const auto of_log = gradient_of_row(Divergence::kLogAcceptance, student, teacher);
    CHECK(of_rate.abs().max().item<double>() < 1e-15);
    CHECK(of_log[0].item<double>() == doctest::Approx(-0.5).epsilon(0.4));
  }
}

TEST_CASE("a row with a NaN has a NaN loss by every divergence, and its neighbour none") {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const bool of_teacher : {false, true}) {
      auto c = case_of(1, 2, 40, type);
      (of_teacher ? c.teacher[0] : c.students[0][0])[33] = std::numeric_limits<double>::quiet_NaN();
      for (const auto& [name, divergence] : kDivergenceNames) {
        CAPTURE(std::string(name));
        CAPTURE(of_teacher);
        const auto loss = run(divergence, c.students, c.teacher, c.weights).rows.loss[0];
        CHECK(std::isnan(loss[0].item<double>()));
        CHECK_FALSE(std::isnan(loss[1].item<double>()));
      }
    }
  }
}

TEST_CASE("divergences have one name each") {
  for (const auto& [name, divergence] : kDivergenceNames) CHECK(divergence_of(name) == divergence);
  CHECK_FALSE(divergence_of("kl").has_value());
}

}  // namespace outrider::testing::divergence_tests
