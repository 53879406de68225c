#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "device.h"
#include "kernels/cross_entropy_rows.h"

namespace outrider::testing {
namespace {

using kernels::RowResults;
using kernels::RowStatistics;

const std::vector<at::ScalarType> kTypes = {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble};

struct Shape {
  int64_t rows, vocab;
};

std::vector<Shape> shapes() {
  std::vector<Shape> all = {{1, 151936}, {3, 151936}};
  for (const int64_t rows : {1, 3, 64}) {
    for (const int64_t vocab : {1, 7, 32, 1000, 32000, 49152}) all.push_back({rows, vocab});
  }
  return all;
}

// Contiguous logits [R,V] whose storage begins `offset` elements after a 16-byte boundary.
at::Tensor device_logits(const at::Tensor& values, int64_t offset) {
  const auto storage = at::empty({values.numel() + offset}, values.options().device(at::kCUDA));
  const auto logits = storage.narrow(0, offset, values.numel()).view(values.sizes());
  logits.copy_(values);
  return logits;
}

at::Tensor random_logits(const Shape& shape, at::ScalarType type) {
  return (at::randn({shape.rows, shape.vocab}) * 3).to(type);
}

at::ScalarType accumulation_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

// Sums of a row agree to this much; gradients only to what their own type can hold.
double sum_tolerance(at::ScalarType type) { return type == at::kDouble ? 1e-10 : 3e-5; }

// Student and teacher of one type, on the device, and the same values in float64 on the CPU.
struct Rows {
  at::Tensor student, teacher, weights;
  at::Tensor cpu_student, cpu_teacher;

  /// Of `steps` students for each teacher's row.
  Rows(const Shape& shape, at::ScalarType type, int64_t student_offset, int64_t teacher_offset,
       int64_t steps = 1) {
    const auto s = random_logits({steps * shape.rows, shape.vocab}, type);
    const auto t = random_logits(shape, type);
    student = device_logits(s, student_offset);
    teacher = device_logits(t, teacher_offset);
    cpu_student = s.to(at::kDouble);
    cpu_teacher = t.to(at::kDouble);
    weights = at::rand({steps * shape.rows}) + 0.5;
  }

  at::Tensor device_weights() const {
    return on_device(weights.to(accumulation_type(student.scalar_type())));
  }
};

void check_results(const RowResults& actual, const RowResults& expected, at::ScalarType type) {
  const auto wide = accumulation_type(type);
  CHECK(type_name(actual.loss) == c10::toString(wide));
  CHECK(difference(actual.loss, expected.loss) < sum_tolerance(type));
  CHECK(difference(actual.overlap, expected.overlap) < sum_tolerance(type));
  CHECK(at::equal(actual.correct.cpu().to(at::kDouble), expected.correct.to(at::kDouble)));
}

void check_statistics(const Rows& rows) {
  const auto type = rows.teacher.scalar_type();
  const auto actual = kernels::cuda::row_statistics(rows.teacher);
  const auto expected = kernels::cpu::row_statistics(rows.cpu_teacher);
  CHECK(difference(actual.log_sum_exp, expected.log_sum_exp) < sum_tolerance(type));
  const auto maximum = rows.cpu_teacher.amax(1);
  const auto found = rows.cpu_teacher.gather(1, actual.argmax.cpu().unsqueeze(1)).squeeze(1);
  CHECK(at::equal(found, maximum));
}

kernels::TeacherRows teacher_of(const at::Tensor& logits, double overlap_shift = 0) {
  const auto statistics = logits.is_cuda() ? kernels::cuda::row_statistics(logits)
                                           : kernels::cpu::row_statistics(logits);
  return {logits, statistics, statistics.log_sum_exp + overlap_shift};
}

void check_divergence(const Rows& rows, Divergence divergence, bool write_gradient) {
  const auto type = rows.student.scalar_type();
  const auto student = rows.student, cpu_student = rows.cpu_student.clone();
  const auto before = student.clone();
  const auto actual = kernels::cuda::divergence_rows(
      student, teacher_of(rows.teacher, 0.25), rows.device_weights(), divergence, write_gradient);
  const auto expected =
      kernels::cpu::divergence_rows(cpu_student, teacher_of(rows.cpu_teacher, 0.25),
                                    rows.weights.to(at::kDouble), divergence, write_gradient);
  check_results(actual, expected, type);
  if (write_gradient) {
    CHECK(difference(student, cpu_student, 1e-6) < tolerance(type));
  } else {
    CHECK(at::equal(student, before));
  }
  student.copy_(before);
}

void check_labels(const Rows& rows, bool write_gradient) {
  const auto type = rows.student.scalar_type();
  const auto student = rows.student, cpu_student = rows.cpu_student.clone();
  const auto before = student.clone();
  auto labels = at::randint(0, rows.student.size(1), {rows.teacher.size(0)}, at::kLong);
  labels[0] = rows.cpu_student[0].argmax();  // one that is predicted
  if (labels.size(0) > 2) {
    labels[1] = -100;
    labels[2] = rows.student.size(1);
  }
  const auto actual = kernels::cuda::label_cross_entropy_rows(
      student, on_device(labels), rows.device_weights(), write_gradient);
  const auto expected = kernels::cpu::label_cross_entropy_rows(
      cpu_student, labels, rows.weights.to(at::kDouble), write_gradient);
  check_results(actual, expected, type);
  if (write_gradient) CHECK(difference(student, cpu_student) < tolerance(type));
  if (!write_gradient) CHECK(at::equal(student, before));
  student.copy_(before);
}

void check_everything(const Rows& rows) {
  check_statistics(rows);
  check_divergence(rows, Divergence::kCrossEntropy, /*write_gradient=*/false);
  for (const auto& [name, divergence] : kDivergenceNames) {
    CAPTURE(std::string(name));
    check_divergence(rows, divergence, /*write_gradient=*/true);
  }
  for (const bool write_gradient : {false, true}) check_labels(rows, write_gradient);
}

}  // namespace

TEST_CASE("row kernels on the device agree with the cpu backend in float64") {
  at::manual_seed(1);
  for (const auto type : kTypes) {
    for (const auto& shape : shapes()) {
      CAPTURE(fmt::format("{} [{},{}]", c10::toString(type), shape.rows, shape.vocab));
      check_everything(Rows(shape, type, 0, 0));
    }
  }
}

TEST_CASE("row kernels hold the students of several steps against one target") {
  at::manual_seed(7);
  for (const auto type : kTypes) {
    for (const auto& shape : std::vector<Shape>{{5, 1}, {5, 33}, {3, 32000}, {1, 151936}}) {
      CAPTURE(fmt::format("{} [{},{}]", c10::toString(type), shape.rows, shape.vocab));
      check_everything(Rows(shape, type, 0, 0, /*steps=*/3));
    }
  }
}

TEST_CASE("row kernels accept rows at any address") {
  at::manual_seed(2);
  for (const auto type : kTypes) {
    for (const int64_t vocab : {1, 7, 33, 1000, 5003}) {
      for (const auto& [student, teacher] : {std::pair{1, 1}, {1, 0}, {0, 1}, {3, 5}}) {
        CAPTURE(fmt::format("{} V {} at {} and {}", c10::toString(type), vocab, student, teacher));
        check_everything(Rows({3, vocab}, type, student, teacher));
      }
    }
  }
}

TEST_CASE("the argmax of equal logits is the first one") {
  for (const auto type : kTypes) {
    CAPTURE(std::string(c10::toString(type)));
    auto logits = at::zeros({5, 40000}, type);
    for (const int64_t v : {17, 18, 2500, 39999}) logits[1][v] = 4;
    for (const int64_t v : {39999, 39998}) logits[2][v] = 4;
    logits[3].fill_(-std::numeric_limits<double>::infinity());
    logits[4].fill_(-std::numeric_limits<double>::infinity());
    logits[4][20000] = 1;
    const auto rows = kernels::cuda::row_statistics(on_device(logits));
    CHECK(at::equal(rows.argmax.cpu(), at::tensor({0, 17, 39998, 0, 20000}, at::kLong)));
    CHECK(rows.log_sum_exp[3].item<double>() == -std::numeric_limits<double>::infinity());
    CHECK(rows.log_sum_exp[4].item<double>() == 1.0);
  }
}

TEST_CASE("a row with a NaN has a NaN loss and leaves its neighbours alone") {
  at::manual_seed(3);
  for (const auto type : kTypes) {
    for (const int64_t position : {0, 5, 999}) {
      CAPTURE(fmt::format("{} at {}", c10::toString(type), position));
      Rows rows({3, 1000}, type, 0, 0);
      rows.student[1][position] = std::numeric_limits<double>::quiet_NaN();
      const auto student_rows = kernels::cuda::row_statistics(rows.student);
      const auto expected = at::tensor({0, 1, 0}, at::kLong).to(at::kBool);
      CHECK(at::equal(at::isnan(student_rows.log_sum_exp).cpu(), expected));
      for (const auto& [name, divergence] : kDivergenceNames) {
        CAPTURE(std::string(name));
        const auto of_student =
            kernels::cuda::divergence_rows(rows.student.clone(), teacher_of(rows.teacher),
                                           rows.device_weights(), divergence, true);
        CHECK(at::equal(at::isnan(of_student.loss).cpu(), expected));
        const auto of_teacher =
            kernels::cuda::divergence_rows(rows.teacher.clone(), teacher_of(rows.student),
                                           rows.device_weights(), divergence, true);
        CHECK(at::equal(at::isnan(of_teacher.loss).cpu(), expected));
      }
    }
  }
}

TEST_CASE("a row of NaN only still has an argmax inside the vocabulary") {
  const auto logits = at::full({2, 300}, std::numeric_limits<float>::quiet_NaN(), at::kCUDA);
  const auto rows = kernels::cuda::row_statistics(logits);
  CHECK(at::equal(rows.argmax.cpu(), at::zeros({2}, at::kLong)));
  CHECK(at::isnan(rows.log_sum_exp).all().item<bool>());
}

TEST_CASE("a token that neither says adds nothing to the loss") {
  const double never = -std::numeric_limits<double>::infinity();
  const auto logits = on_device(at::tensor({1.0, never, 2.0}, at::kFloat).reshape({1, 3}));
  const auto entropy = std::log1p(std::exp(-1.0)) + 1.0 / (1.0 + std::exp(1.0));
  for (const auto& [name, divergence] : kDivergenceNames) {
    CAPTURE(std::string(name));
    const auto student = logits.clone();
    const auto results = kernels::cuda::divergence_rows(student, teacher_of(logits),
                                                        at::ones({1}, at::kCUDA), divergence, true);
    const double expected = divergence == Divergence::kCrossEntropy ? entropy : 0.0;
    CHECK(std::abs(results.loss.item<double>() - expected) < 1e-6);
    CHECK(results.overlap.item<double>() == doctest::Approx(1.0).epsilon(1e-6));
    CHECK(student.abs().max().item<double>() < 1e-6);
  }
}

TEST_CASE("distributions that have nothing in common have finite losses and gradients") {
  for (const auto type : kTypes) {
    const auto student = at::tensor({200.0, -200.0, 0.0, -50.0}, at::kDouble).to(type).view({1, 4});
    const auto teacher = student.flip(1).contiguous();
    for (const auto& [name, divergence] : kDivergenceNames) {
      CAPTURE(fmt::format("{} {}", c10::toString(type), name));
      const auto gradient = on_device(student);
      const auto weights = at::ones({1}, gradient.options().dtype(accumulation_type(type)));
      const auto results = kernels::cuda::divergence_rows(gradient, teacher_of(on_device(teacher)),
                                                          weights, divergence, true);
      const auto wide = student.to(at::kDouble);
      const auto expected = kernels::cpu::divergence_rows(
          wide, teacher_of(teacher.to(at::kDouble)), at::ones({1}, at::kDouble), divergence, true);
      CHECK(std::isfinite(results.loss.item<double>()));
      CHECK(difference(results.loss, expected.loss) < 1e-4);
      CHECK(difference(gradient, wide, 1e-6) < tolerance(type));
    }
  }
}

// Of the last token p and q are one half, to the bit.
TEST_CASE("at a tie of p and q the device takes the mean of both slopes, as the cpu does") {
  const auto teacher = at::log(at::tensor({0.3, 0.2, 0.5}, at::kDouble)).view({1, 3});
  const auto student = at::log(at::tensor({0.2, 0.3, 0.5}, at::kDouble)).view({1, 3});
  for (const auto divergence : {Divergence::kTotalVariation, Divergence::kLogAcceptance}) {
    const auto expected = student.clone(), gradient = on_device(student.to(at::kFloat));
    kernels::cpu::divergence_rows(expected, teacher_of(teacher), at::ones({1}, at::kDouble),
                                  divergence, true);
    kernels::cuda::divergence_rows(gradient, teacher_of(on_device(teacher.to(at::kFloat))),
                                   at::ones({1}, at::kCUDA), divergence, true);
    CHECK(difference(gradient, expected) < 1e-5);
  }
}

TEST_CASE("rows that weigh nothing get a gradient of zero") {
  at::manual_seed(6);
  for (const auto type : kTypes) {
    const Rows rows({3, 1003}, type, 0, 0);
    for (const auto& [name, divergence] : kDivergenceNames) {
      CAPTURE(fmt::format("{} {}", c10::toString(type), name));
      const auto student = rows.student.clone();
      kernels::cuda::divergence_rows(student, teacher_of(rows.teacher),
                                     at::zeros_like(rows.device_weights()), divergence, true);
      CHECK(student.abs().max().item<double>() == 0.0);
    }
  }
}

TEST_CASE("row kernels give the same bits every time") {
  at::manual_seed(4);
  const Rows rows({64, 32001}, at::kBFloat16, 0, 0);
  for (const auto& [name, divergence] : kDivergenceNames) {
    CAPTURE(std::string(name));
    const auto of = divergence;
    const auto run = [&] {
      auto student = rows.student.clone();
      const auto results = kernels::cuda::divergence_rows(student, teacher_of(rows.teacher),
                                                          rows.device_weights(), of, true);
      return std::vector<at::Tensor>{student, results.loss, results.overlap};
    };
    const auto first = run(), second = run();
    for (size_t i = 0; i < first.size(); ++i) CHECK(at::equal(first[i], second[i]));
  }
}

TEST_CASE("no rows are no work") {
  const auto logits = at::empty({0, 100}, at::kCUDA);
  const auto rows = kernels::cuda::row_statistics(logits);
  CHECK(rows.log_sum_exp.numel() == 0);
  CHECK(kernels::cuda::label_cross_entropy_rows(logits, rows.argmax, rows.log_sum_exp, true)
            .loss.numel() == 0);
}

}  // namespace outrider::testing
