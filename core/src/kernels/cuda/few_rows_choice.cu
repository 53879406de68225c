#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cmath>

#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/few_rows_device.cuh"

// A cluster of blocks has a row; what its warps found meets in the first block.

namespace outrider::cuda {
namespace {

constexpr int kBlocks = 8, kThreads = 512, kWarps = kThreads / 32, kPack = 8;
constexpr int kFound = kBlocks * kWarps;

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
__device__ Best best_of_thread(const __nv_bfloat16* row, int size, int block) {
  Best best;
  const int thread = block * kThreads + static_cast<int>(threadIdx.x);
  const int head =
      min(size, static_cast<int>((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(*row)));
  const int packs = (size - head) / kPack, tail = head + packs * kPack;
  if (thread < head) best.meet(__bfloat162float(row[thread]), thread);
#pragma unroll 4
  for (int i = thread; i < packs; i += kBlocks * kThreads) {
    float x[kPack];
    const int first = head + i * kPack;
    widen(load_fresh(row + first), x);
#pragma unroll
    for (int j = 0; j < kPack; ++j) best.meet(x[j], first + j);
  }
  if (tail + thread < size) best.meet(__bfloat162float(row[tail + thread]), tail + thread);
  return best;
}

// The same in the first block of a cluster.
template <class T>
__device__ T& in_first_block(T& own) {
  return *cooperative_groups::this_cluster().map_shared_rank(&own, 0);
}

__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads)
    choice_kernel(FewRowsChoice c) {
  __shared__ float values[kFound];
  __shared__ int tokens[kFound];
  const auto cluster = cooperative_groups::this_cluster();
  cluster.sync();  // all of them are there
  wait_for_previous();
  begin_dependents();
  const auto sequence = static_cast<int64_t>(blockIdx.x) / kBlocks;
  const auto block = static_cast<int>(blockIdx.x % kBlocks);
  const auto size = static_cast<int>(c.vocabulary);
  const auto* row = static_cast<const __nv_bfloat16*>(c.logits) + sequence * c.vocabulary;
  auto best = best_of_warp(best_of_thread(row, size, block));
  if (threadIdx.x % 32 == 0) {
    const int place = block * kWarps + static_cast<int>(threadIdx.x) / 32;
    in_first_block(values[place]) = best.value;
    in_first_block(tokens[place]) = best.token;
  }
  cluster.sync();
  if (block != 0 || threadIdx.x >= 32) return;
  for (int i = static_cast<int>(threadIdx.x); i < kFound; i += 32) best.meet(values[i], tokens[i]);
  best = best_of_warp(best);
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
  return launch_dependent(choice_kernel, dim3(static_cast<unsigned>(kBlocks * c.batch)),
                          dim3(kThreads), 0, stream, c);
}

}  // namespace outrider::cuda
