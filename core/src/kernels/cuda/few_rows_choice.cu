#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cmath>

#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/few_rows_device.cuh"

namespace outrider::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32, kPack = 8;

struct Best {
  float value = -INFINITY;
  int token = 0x7fffffff;

  __device__ void meet(float other, int other_token) {
    if (other < value || (other == value && other_token >= token)) return;
    value = other;
    token = other_token;
  }
};

__device__ Best best_of_warp(Best best) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float value = __shfl_xor_sync(~0u, best.value, step);
    best.meet(value, __shfl_xor_sync(~0u, best.token, step));
  }
  return best;
}

// Rows begin anywhere: the first elements up to a pack's boundary are taken one by one.
__device__ Best best_of_thread(const __nv_bfloat16* row, int size) {
  Best best;
  const auto thread = static_cast<int>(threadIdx.x);
  const int head =
      min(size, static_cast<int>((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(*row)));
  const int packs = (size - head) / kPack, tail = head + packs * kPack;
  if (thread < head) best.meet(__bfloat162float(row[thread]), thread);
  for (int i = thread; i < packs; i += kThreads) {
    float x[kPack];
    const int first = head + i * kPack;
    widen(load_fresh(row + first), x);
#pragma unroll
    for (int j = 0; j < kPack; ++j) best.meet(x[j], first + j);
  }
  if (tail + thread < size) best.meet(__bfloat162float(row[tail + thread]), tail + thread);
  return best;
}

__global__ void __launch_bounds__(kThreads) choice_kernel(FewRowsChoice c) {
  __shared__ Best bests[kWarps];
  wait_for_previous();
  begin_dependents();
  const auto sequence = static_cast<int64_t>(blockIdx.x);
  const auto size = static_cast<int>(c.vocabulary);
  auto best = best_of_warp(
      best_of_thread(static_cast<const __nv_bfloat16*>(c.logits) + sequence * c.vocabulary, size));
  if (threadIdx.x % 32 == 0) bests[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = best_of_warp(bests[threadIdx.x]);
  if (threadIdx.x != 0) return;
  // Not a number is nowhere the likeliest.
  const int number = min(best.token, size - 1);
  const int64_t token = c.map ? c.map[number] : number;
  c.ids[sequence] = token;
  if (!c.lengths) return;
  const int64_t length = c.lengths[sequence];
  c.written[sequence * c.capacity + length] = token;
  c.lengths[sequence] = length + 1;
}

}  // namespace

int few_rows_choice(const FewRowsChoice& c, CUstream_st* stream) {
  if (c.batch == 0) return cudaSuccess;
  return launch_dependent(choice_kernel, dim3(static_cast<unsigned>(c.batch)), dim3(kThreads), 0,
                          stream, c);
}

}  // namespace outrider::cuda
