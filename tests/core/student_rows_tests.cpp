#include <algorithm>
#include <vector>

#include "gradcheck.h"
#include "outrider/ops/streaming_cross_entropy.h"

namespace outrider::testing::student_rows_tests {
namespace {

using ops::StudentRows;

constexpr int64_t kBatch = 2, kLength = 9, kHidden = 6, kVocabulary = 23, kSteps = 3;
constexpr double kEps = 1e-2;

// Outputs [B,L-k,h] of steps, of which rows are read at positions that begin before some of them.
struct Steps {
  std::vector<at::Tensor> outputs;
  at::Tensor index, weights, norm, head, teacher, labels;

  int64_t rows() const { return index.size(1); }
  std::vector<at::Tensor> inputs() const {
    auto all = outputs;
    all.insert(all.end(), {norm, head});
    return all;
  }
  Steps with(const std::vector<at::Tensor>& inputs) const {
    auto changed = *this;
    changed.outputs.assign(inputs.begin(), inputs.begin() + kSteps);
    changed.norm = inputs[kSteps];
    changed.head = inputs[kSteps + 1];
    return changed;
  }
};

constexpr int64_t kPlaces[][2] = {{1, 3}, {0, 0}, {0, 7}, {1, 1}, {0, 2}, {1, 6}, {1, 0}};

Steps steps_of(at::ScalarType type) {
  const int64_t rows = std::size(kPlaces);
  Steps s{{},
          at::empty({kSteps, rows}, at::kLong),
          random({kSteps, rows}, 1).abs().to(type == at::kDouble ? type : at::kFloat),
          random({kHidden}, 2, type),
          random({kVocabulary, kHidden}, 3, type),
          random({rows, kVocabulary}, 4, type),
          random_ids({rows}, kVocabulary, 5)};
  for (int64_t k = 0; k < kSteps; ++k) {
    const int64_t length = kLength - k;
    s.outputs.push_back(random({kBatch, length, kHidden}, 10 + static_cast<int>(k), type));
    for (int64_t n = 0; n < rows; ++n) {
      const int64_t place = kPlaces[n][1] - k;
      s.index[k][n] = place < 0 ? -1 : kPlaces[n][0] * length + place;
      if (place < 0) s.weights[k][n] = 0.0;
    }
  }
  return s;
}

ops::TeacherTargets teacher_of(const Steps& s) {
  return {at::arange(s.rows(), at::kLong),
          [logits = s.teacher](const at::Tensor& rows) { return logits.index_select(0, rows); },
          {}};
}

ops::StreamingLoss run(const Steps& s, bool soft, bool normed) {
  StudentRows rows(s.outputs, s.index);
  if (normed) rows = std::move(rows).normed(s.norm, kEps);
  return soft ? ops::streaming_cross_entropy(rows, s.head, teacher_of(s), s.weights)
              : ops::streaming_cross_entropy(rows, s.head, s.labels, s.weights);
}

at::Tensor as_double(const at::Tensor& tensor) { return tensor.to(at::kDouble); }

// Row by row and with a whole softmax, in float64.
at::Tensor plain_loss(const Steps& s, bool soft, bool normed) {
  auto total = at::zeros({}, at::kDouble);
  for (int64_t k = 0; k < kSteps; ++k) {
    for (int64_t n = 0; n < s.rows(); ++n) {
      const int64_t place = s.index[k][n].item<int64_t>();
      if (place < 0) continue;
      const auto& output = s.outputs[static_cast<size_t>(k)];
      auto row = as_double(output[place / output.size(1)][place % output.size(1)]);
      if (normed) row = as_double(s.norm) * row / at::sqrt(row.square().mean() + kEps);
      const auto surprise = -at::log_softmax(at::mv(as_double(s.head), row), 0);
      const auto loss = soft ? (at::softmax(as_double(s.teacher[n]), 0) * surprise).sum()
                             : surprise[s.labels[n].item<int64_t>()];
      total = total + as_double(s.weights[k][n]) * loss;
    }
  }
  return total;
}

std::vector<at::Tensor> gradients_of(const at::Tensor& total, const std::vector<at::Tensor>& of) {
  return torch::autograd::grad({total}, of, {}, /*retain_graph=*/true, /*create_graph=*/false,
                               /*allow_unused=*/true);
}

void check_against_plain(at::ScalarType type, double tolerance) {
  for (const bool soft : {true, false}) {
    for (const bool normed : {true, false}) {
      CAPTURE(at::toString(type));
      CAPTURE(soft);
      CAPTURE(normed);
      auto s = steps_of(type);
      for (auto& input : s.inputs()) input.requires_grad_();
      const auto actual = run(s, soft, normed).total, expected = plain_loss(s, soft, normed);
      CHECK(actual.item<double>() == doctest::Approx(expected.item<double>()).epsilon(tolerance));
      const auto found = gradients_of(actual, s.inputs());
      const auto wanted = gradients_of(expected, s.inputs());
      for (size_t i = 0; i < found.size(); ++i) {
        CAPTURE(i);
        CHECK(found[i].defined() == wanted[i].defined());
        if (!found[i].defined()) continue;
        CHECK((found[i].scalar_type() == type));
        CHECK(found[i].sizes() == wanted[i].sizes());
        const double size = std::max(1.0, wanted[i].abs().max().item<double>());
        CHECK_CLOSE(found[i], wanted[i], tolerance * size);
      }
    }
  }
}

}  // namespace

TEST_CASE("rows of steps' outputs give the loss and gradients of a plain computation") {
  check_against_plain(at::kDouble, 1e-12);
  check_against_plain(at::kFloat, 2e-5);
  check_against_plain(at::kBFloat16, 0.02);
}

TEST_CASE("gradients through gathered and normed rows equal finite differences") {
  const auto s = steps_of(at::kDouble);
  for (const bool soft : {true, false}) {
    check_gradients([&](const auto& inputs) { return run(s.with(inputs), soft, true).total; },
                    s.inputs());
  }
}

// 48 MiB of logits are 97 rows of three steps and 21 000 float64 numbers: four chunks.
TEST_CASE("rows of steps are gathered and their gradients written over several chunks") {
  constexpr int64_t kRows = 300, kWide = 21000;
  Steps s{{},
          at::remainder(at::arange(kRows, at::kLong) * 7 + at::arange(kSteps).unsqueeze(1), kRows),
          random({kSteps, kRows}, 1).abs(),
          random({2}, 2),
          random({kWide, 2}, 3),
          random({kRows, 2}, 4),
          random_ids({kRows}, kWide, 5)};
  std::vector<at::Tensor> picked;
  for (int64_t k = 0; k < kSteps; ++k) {
    s.outputs.push_back(random({kRows, 2}, 10 + static_cast<int>(k)).requires_grad_());
    picked.push_back(s.outputs.back().index_select(0, s.index[k]));
  }
  s.norm.requires_grad_();
  s.head.requires_grad_();
  const auto actual = run(s, false, true).total;
  const auto logits =
      at::matmul(at::stack(picked) * s.norm /
                     at::sqrt(at::stack(picked).square().mean(-1, /*keepdim=*/true) + kEps),
                 s.head.t());
  const auto own = logits.gather(2, s.labels.expand({kSteps, -1}).unsqueeze(2)).squeeze(2);
  const auto expected = (s.weights * (at::logsumexp(logits, 2) - own)).sum();
  CHECK_CLOSE(actual, expected, 1e-8);
  const auto found = gradients_of(actual, s.inputs()), wanted = gradients_of(expected, s.inputs());
  for (size_t i = 0; i < found.size(); ++i) CHECK_CLOSE(found[i], wanted[i], 1e-10);
}

TEST_CASE("only outputs that are trained get a gradient") {
  auto s = steps_of(at::kDouble);
  s.outputs[1].requires_grad_();
  const auto expected = gradients_of(plain_loss(s, true, true), {s.outputs[1]});
  CHECK_CLOSE(gradients_of(run(s, true, true).total, {s.outputs[1]})[0], expected[0], 1e-12);
  CHECK_FALSE(s.outputs[0].requires_grad());
  s.outputs[1].requires_grad_(false);
  CHECK_FALSE(run(s, true, true).total.requires_grad());
}

TEST_CASE("gradients stay right where they are asked for again, and where they are not") {
  auto s = steps_of(at::kDouble);
  for (auto& input : s.inputs()) input.requires_grad_();
  const auto expected = gradients_of(plain_loss(s, true, true), s.inputs());
  const auto total = run(s, true, true).total;
  for (const double scale : {-2.5, 1.0, 0.0}) {
    const auto kept = gradients_of(total * scale, s.inputs());
    const auto last = torch::autograd::grad({run(s, true, true).total * scale}, s.inputs());
    for (size_t i = 0; i < kept.size(); ++i) {
      CHECK_CLOSE(kept[i], expected[i] * scale, 1e-12);
      CHECK_CLOSE(last[i], expected[i] * scale, 1e-12);
    }
  }
  const auto first = torch::autograd::grad({total}, s.inputs());
  CHECK_CLOSE(first[0], expected[0], 1e-12);
  CHECK_THROWS(torch::autograd::grad({total}, s.inputs()));
}

TEST_CASE("the gradient is handed over without a copy where nobody asks for it again") {
  auto rows = random({1, 4, kHidden}, 1).requires_grad_();
  const auto total = ops::streaming_cross_entropy(rows, random({kVocabulary, kHidden}, 2),
                                                  random_ids({4}, kVocabulary, 3), at::ones({1, 4}))
                         .total;
  const auto kept = torch::autograd::grad({total}, {rows}, {}, /*retain_graph=*/true)[0];
  const auto handed = torch::autograd::grad({total * 2}, {rows})[0];
  CHECK_CLOSE(handed, kept * 2, 1e-14);
  CHECK(handed.storage().use_count() == 1);
}

TEST_CASE("a second derivative is refused") {
  auto s = steps_of(at::kDouble);
  s.head.requires_grad_();
  const auto total = run(s, true, false).total;
  CHECK_CONTAINS(failure(ErrorCode::kUnsupported,
                         [&] {
                           torch::autograd::grad({total.square()}, {s.head}, {}, true,
                                                 /*create_graph=*/true);
                         }),
                 "no second derivative");
}

TEST_CASE("student rows of shapes that do not fit are refused") {
  const auto s = steps_of(at::kFloat);
  const auto refuse = [&](const StudentRows& rows) {
    CHECK_CONTAINS(
        failure(ErrorCode::kInternal,
                [&] { ops::streaming_cross_entropy(rows, s.head, s.labels, s.weights); }),
        "student rows");
  };
  refuse(StudentRows({}, s.index));
  refuse(StudentRows({s.outputs[0], s.outputs[1]}, s.index));
  refuse(StudentRows(s.outputs, s.index[0]));
  refuse(StudentRows({s.outputs[0], s.outputs[1], s.outputs[2].slice(2, 1)}, s.index));
  refuse(StudentRows(s.outputs, s.index).normed(s.norm.slice(0, 1), kEps));
  refuse(StudentRows(s.outputs[0][0]));
}

}  // namespace outrider::testing::student_rows_tests
