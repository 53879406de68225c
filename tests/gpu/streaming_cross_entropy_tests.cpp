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

namespace {

// Rows of steps' outputs after a norm, those of a later step beginning one position later.
struct StepProblem {
  std::vector<at::Tensor> outputs;
  at::Tensor index, norm, head, teacher, weights;

  StepProblem to(at::Device device, at::ScalarType type) const {
    const auto trained = [&](const at::Tensor& tensor) {
      return tensor.detach().to(device, type).requires_grad_();
    };
    StepProblem moved{{},
                      index.to(device),
                      trained(norm),
                      trained(head),
                      teacher.to(device, type),
                      weights.to(device, type == at::kDouble ? at::kDouble : at::kFloat)};
    for (const auto& output : outputs) moved.outputs.push_back(trained(output));
    return moved;
  }
  std::vector<at::Tensor> inputs() const {
    auto all = outputs;
    all.insert(all.end(), {norm, head});
    return all;
  }
};

StepProblem random_steps(int64_t rows, int64_t hidden, int64_t vocab, at::ScalarType type) {
  constexpr int64_t kSteps = 3;
  const auto step = at::arange(kSteps).unsqueeze(1), own = at::arange(rows) - step;
  StepProblem p{{},
                at::where(own.ge(0), own, -1),
                (at::rand({hidden}) + 0.5).to(type),
                (at::randn({vocab, hidden}) * 0.3).to(type),
                at::randn({rows, vocab}).to(type),
                at::rand({kSteps, rows}) * own.ge(0)};
  for (int64_t k = 0; k < kSteps; ++k) {
    p.outputs.push_back(at::randn({1, rows - k, hidden}).to(type));
  }
  return p;
}

at::Tensor loss_of(const StepProblem& p) {
  const auto logits = [&](const at::Tensor& rows) { return p.teacher.index_select(0, rows); };
  const auto rows = at::arange(p.weights.size(1), p.index.options());
  return ops::streaming_cross_entropy(ops::StudentRows(p.outputs, p.index).normed(p.norm, 1e-5),
                                      p.head, ops::TeacherTargets{rows, logits}, p.weights)
      .total;
}

void check_steps(const StepProblem& problem, at::ScalarType type) {
  const auto device = problem.to(at::kCUDA, type), cpu = problem.to(at::kCPU, at::kDouble);
  const double limit = type == at::kFloat ? 1e-4 : type == at::kHalf ? 1e-2 : 4e-2;
  for (const double scale : {1.0, -3.0}) {
    const auto actual = loss_of(device) * scale, expected = loss_of(cpu) * scale;
    CHECK(difference(actual, expected) < limit);
    const auto found = torch::autograd::grad({actual}, device.inputs());
    const auto wanted = torch::autograd::grad({expected}, cpu.inputs());
    for (size_t i = 0; i < found.size(); ++i) {
      CAPTURE(i);
      CHECK(type_name(found[i]) == c10::toString(type));
      CHECK(difference(found[i], wanted[i], 1e-2) < limit);
    }
  }
}

}  // namespace

TEST_CASE("a loss on the device reads rows of steps' outputs as the cpu does") {
  at::manual_seed(10);
  for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const int64_t vocab : {1, 50, 1003, 32000}) {
      CAPTURE(fmt::format("{} V {}", c10::toString(type), vocab));
      check_steps(random_steps(70, 64, vocab, type), type);
    }
    CAPTURE(fmt::format("{} V 151936", c10::toString(type)));
    check_steps(random_steps(9, 32, 151936, type), type);
  }
}

TEST_CASE("a loss on the device adds up over chunks of rows") {
  at::manual_seed(11);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    check_steps(random_steps(3000, 16, 32000, type), type);  // 9000 rows: 8388 of bfloat16 fit
  }
}

TEST_CASE("steps whose rows all weigh nothing have no gradient on the device") {
  at::manual_seed(12);
  auto problem = random_steps(40, 32, 1003, at::kBFloat16);
  problem.weights.zero_();
  const auto device = problem.to(at::kCUDA, at::kBFloat16);
  for (const auto& gradient : torch::autograd::grad({loss_of(device)}, device.inputs())) {
    CHECK(gradient.abs().max().item<double>() == 0.0);
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
