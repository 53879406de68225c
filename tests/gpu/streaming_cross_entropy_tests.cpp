#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include "device.h"
#include "outrider/ops/streaming_cross_entropy.h"

namespace outrider::testing {
namespace {

struct Problem {
  at::Tensor students, head, teacher_rows, teacher_head, labels, weights;

  Problem to(at::Device device, at::ScalarType type) const {
    const auto wide = type == at::kDouble ? at::kDouble : at::kFloat;
    return {students.to(device, type).requires_grad_(),
            head.to(device, type).requires_grad_(),
            teacher_rows.to(device, type),
            teacher_head.to(device, type),
            labels.to(device),
            weights.to(device, wide)};
  }
};

Problem random_problem(int64_t steps, int64_t rows, int64_t hidden, int64_t vocab,
                       at::ScalarType type) {
  return {at::randn({steps, rows, hidden}).to(type), (at::randn({vocab, hidden}) * 0.3).to(type),
          at::randn({rows, hidden}).to(type),        (at::randn({vocab, hidden}) * 0.3).to(type),
          at::randint(0, vocab, {rows}, at::kLong),  at::rand({steps, rows})};
}

ops::StreamingLoss run(const Problem& p, bool soft) {
  if (!soft) return ops::streaming_cross_entropy(p.students, p.head, p.labels, p.weights);
  const auto logits = [&](const at::Tensor& rows) { return at::matmul(rows, p.teacher_head.t()); };
  return ops::streaming_cross_entropy(p.students, p.head,
                                      ops::TeacherTargets{p.teacher_rows, logits}, p.weights);
}

void check_problem(const Problem& problem, at::ScalarType type, bool soft) {
  const auto device = problem.to(at::kCUDA, type), cpu = problem.to(at::kCPU, at::kDouble);
  const auto actual = run(device, soft), expected = run(cpu, soft);
  // In bfloat16 the logits are rounded after the product, on the CPU they are not.
  const double limit = type == at::kFloat ? 1e-4 : 4e-2;
  CHECK(difference(actual.total, expected.total) < limit);
  CHECK(difference(actual.rows.loss, expected.rows.loss) < limit);
  CHECK(difference(actual.rows.overlap, expected.rows.overlap) < limit);
  if (type == at::kFloat) {
    CHECK(at::equal(actual.rows.correct.cpu(), expected.rows.correct.to(at::kFloat)));
  }
  const auto d_actual = torch::autograd::grad({actual.total}, {device.students, device.head});
  const auto d_expected = torch::autograd::grad({expected.total}, {cpu.students, cpu.head});
  CHECK(type_name(d_actual[0]) == c10::toString(type));
  CHECK(difference(d_actual[0], d_expected[0]) < limit);
  CHECK(difference(d_actual[1], d_expected[1]) < limit);
}

}  // namespace

TEST_CASE("streaming cross-entropy on the device agrees with float64 on the cpu") {
  at::manual_seed(8);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t vocab : {50, 1003, 32000}) {
      for (const bool soft : {true, false}) {
        CAPTURE(fmt::format("{} V {} soft {}", c10::toString(type), vocab, soft));
        check_problem(random_problem(3, 70, 64, vocab, type), type, soft);
      }
    }
  }
}

TEST_CASE("streaming statistics of logits on the device agree with float64 on the cpu") {
  at::manual_seed(9);
  const auto p = random_problem(1, 130, 64, 5000, at::kFloat);
  const auto actual = ops::streaming_logit_statistics(on_device(p.teacher_rows), on_device(p.head));
  const auto logits = at::matmul(p.teacher_rows.to(at::kDouble), p.head.to(at::kDouble).t());
  CHECK(difference(actual.log_sum_exp, at::logsumexp(logits, 1)) < 1e-5);
  CHECK(at::equal(actual.argmax.cpu(), logits.argmax(1)));
}

}  // namespace outrider::testing
