#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <fmt/format.h>

#include "kernels/cross_entropy_rows.h"
#include "kernels/cuda/cross_entropy_rows.cuh"
#include "outrider/error.h"
#include "outrider/kernels/scalar_type.h"

namespace outrider::kernels::cuda {
namespace {

RowsShape shape_of(const at::Tensor& logits) {
  return {data_type(logits.scalar_type(), "cross-entropy rows"), logits.size(0), logits.size(1)};
}

at::Tensor new_row_values(const at::Tensor& logits) {
  const auto type = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::empty({logits.size(0)}, logits.options().dtype(type));
}

RowResults new_results(const at::Tensor& logits) {
  return {new_row_values(logits), new_row_values(logits), new_row_values(logits)};
}

RowResultPointers pointers_of(const RowResults& results) {
  return {results.loss.data_ptr(), results.correct.data_ptr(), results.overlap.data_ptr()};
}

void check_launch(cudaError_t status, const char* kernel) {
  if (status == cudaSuccess) return;
  const bool is_foreign_device = status == cudaErrorNoKernelImageForDevice;
  throw Error(is_foreign_device ? ErrorCode::kDeviceUnavailable : ErrorCode::kInternal,
              fmt::format("CUDA kernel {}: {}", kernel, cudaGetErrorString(status)),
              is_foreign_device
                  ? "configure with -DOUTRIDER_CUDA_ARCHITECTURES set to this GPU's architecture"
                  : "run again with CUDA_LAUNCH_BLOCKING=1 to see which kernel fails");
}

}  // namespace

RowStatistics row_statistics(const at::Tensor& logits) {
  const c10::cuda::CUDAGuard guard(logits.device());
  RowStatistics rows = {new_row_values(logits),
                        at::empty({logits.size(0)}, logits.options().dtype(at::kLong))};
  check_launch(
      launch_row_statistics(shape_of(logits), logits.const_data_ptr(), rows.log_sum_exp.data_ptr(),
                            rows.argmax.data_ptr<int64_t>(), c10::cuda::getCurrentCUDAStream()),
      "row_statistics");
  return rows;
}

RowResults soft_cross_entropy_rows(const at::Tensor& student, const at::Tensor& teacher,
                                   const RowStatistics& teacher_rows,
                                   const at::Tensor& overlap_log_sum_exp, const at::Tensor& weights,
                                   bool write_gradient) {
  const c10::cuda::CUDAGuard guard(student.device());
  const auto results = new_results(student);
  const SoftRowsPointers pointers = {
      .student = student.data_ptr(),
      .teacher = teacher.const_data_ptr(),
      .teacher_log_sum_exp = teacher_rows.log_sum_exp.const_data_ptr(),
      .teacher_argmax = teacher_rows.argmax.const_data_ptr<int64_t>(),
      .overlap_log_sum_exp = overlap_log_sum_exp.const_data_ptr(),
      .weights = weights.const_data_ptr(),
      .results = pointers_of(results)};
  check_launch(launch_soft_rows(shape_of(student), pointers, write_gradient,
                                c10::cuda::getCurrentCUDAStream()),
               "soft_cross_entropy_rows");
  return results;
}

RowResults label_cross_entropy_rows(const at::Tensor& student, const at::Tensor& labels,
                                    const at::Tensor& weights, bool write_gradient) {
  const c10::cuda::CUDAGuard guard(student.device());
  const auto results = new_results(student);
  const LabelRowsPointers pointers = {.student = student.data_ptr(),
                                      .labels = labels.const_data_ptr<int64_t>(),
                                      .weights = weights.const_data_ptr(),
                                      .results = pointers_of(results)};
  check_launch(launch_label_rows(shape_of(student), pointers, write_gradient,
                                 c10::cuda::getCurrentCUDAStream()),
               "label_cross_entropy_rows");
  return results;
}

}  // namespace outrider::kernels::cuda
