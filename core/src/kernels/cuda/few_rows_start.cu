#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/few_rows_device.cuh"

namespace outrider::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) start_kernel(FewRowsStart s) {
  wait_for_previous();
  begin_dependents();
  const int64_t row = blockIdx.x, sequence = row / s.rows, place = row % s.rows;
  const auto* from = static_cast<const uint4*>(s.embedding) + s.ids[row] * (s.hidden / 8);
  auto* to = static_cast<uint4*>(s.x) + row * (s.hidden / 8);
  for (int64_t i = threadIdx.x; i < s.hidden / 8; i += kThreads) to[i] = from[i];
  if (threadIdx.x != 0) return;
  int64_t depth = place;
  if (s.seen) {
    const bool* line = s.seen + ((s.seen_batch == 1 ? 0 : sequence) * s.rows + place) * s.rows;
    depth = -1;
    for (int64_t i = 0; i < s.rows; ++i) depth += line[i];
  }
  s.positions[row] = s.lengths[sequence] + depth;
}

}  // namespace

int few_rows_start(const FewRowsStart& s, CUstream_st* stream) {
  if (s.batch * s.rows == 0) return cudaSuccess;
  return launch_dependent(start_kernel, dim3(static_cast<unsigned>(s.batch * s.rows)),
                          dim3(kThreads), 0, stream, s);
}

}  // namespace outrider::cuda
