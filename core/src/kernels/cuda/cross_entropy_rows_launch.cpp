#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "kernels/cross_entropy_rows.h"
#include "kernels/cuda/cross_entropy_rows.cuh"
#include "outrider/kernels/accumulation.h"
#include "outrider/kernels/launch.h"

namespace outrider::kernels::cuda {
namespace {

RowsShape shape_of(const Launch& launch, const at::Tensor& logits, int64_t targets) {
  const int64_t rows = logits.size(0);
  return {launch.type(), rows, logits.size(1), rows == 0 ? 1 : rows / targets};
}

at::Tensor new_row_values(const at::Tensor& logits) {
  return at::empty({logits.size(0)}, logits.options().dtype(accumulation_type(logits)));
}

RowResults new_results(const at::Tensor& logits) {
  return {new_row_values(logits), new_row_values(logits), new_row_values(logits)};
}

RowResultPointers pointers_of(const RowResults& results) {
  return {results.loss.data_ptr(), results.correct.data_ptr(), results.overlap.data_ptr()};
}

void require_built(bool is_built, const char* name) {
  if (!is_built) throw_no_kernel(name);
}

}  // namespace

RowStatistics row_statistics(const at::Tensor& logits) {
  require_built(launch_row_statistics != nullptr, "row_statistics");
  const Launch launch("row_statistics", logits);
  RowStatistics rows = {new_row_values(logits),
                        at::empty({logits.size(0)}, logits.options().dtype(at::kLong))};
  launch.check(launch_row_statistics(shape_of(launch, logits, logits.size(0)),
                                     logits.const_data_ptr(), rows.log_sum_exp.data_ptr(),
                                     rows.argmax.data_ptr<int64_t>(), launch.stream()));
  return rows;
}

RowResults divergence_rows(const at::Tensor& student, const TeacherRows& teacher,
                           const at::Tensor& weights, Divergence divergence, bool write_gradient) {
  require_built(launch_divergence_rows != nullptr, "divergence_rows");
  const Launch launch("divergence_rows", student);
  const auto results = new_results(student);
  const DivergenceRowsPointers pointers = {
      .student = student.data_ptr(),
      .teacher = teacher.logits.const_data_ptr(),
      .teacher_log_sum_exp = teacher.statistics.log_sum_exp.const_data_ptr(),
      .teacher_argmax = teacher.statistics.argmax.const_data_ptr<int64_t>(),
      .overlap_log_sum_exp = teacher.overlap_log_sum_exp.const_data_ptr(),
      .weights = weights.const_data_ptr(),
      .results = pointers_of(results)};
  launch.check(launch_divergence_rows(shape_of(launch, student, teacher.logits.size(0)), pointers,
                                      divergence, write_gradient, launch.stream()));
  return results;
}

RowResults label_cross_entropy_rows(const at::Tensor& student, const at::Tensor& labels,
                                    const at::Tensor& weights, bool write_gradient) {
  require_built(launch_label_rows != nullptr, "label_cross_entropy_rows");
  const Launch launch("label_cross_entropy_rows", student);
  const auto results = new_results(student);
  const LabelRowsPointers pointers = {.student = student.data_ptr(),
                                      .labels = labels.const_data_ptr<int64_t>(),
                                      .weights = weights.const_data_ptr(),
                                      .results = pointers_of(results)};
  launch.check(launch_label_rows(shape_of(launch, student, labels.size(0)), pointers,
                                 write_gradient, launch.stream()));
  return results;
}

}  // namespace outrider::kernels::cuda
