#pragma once

// Host code around kernels on rows. Include from .cu files only.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/device_packs.cuh"

namespace outrider::kernels {

/// Threads for a block that handles one row: a power of two of warps, at most `limit`.
template <class T>
int row_threads(int64_t size, int limit) {
  int threads = 32;
  while (threads < limit && static_cast<int64_t>(threads) * Pack<T>::kSize < size) threads *= 2;
  return threads;
}

/// A one-dimensional grid that covers `count` items with a loop: blocks beyond the limit are left
/// out.
inline unsigned grid_size(int64_t count, int64_t limit = INT32_MAX) {
  return static_cast<unsigned>(std::min(count, limit));
}

/// Launches a kernel and returns what the launch itself reported.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

/// call(T{}) for the C++ type of `type`.
template <class Call>
auto with_type(DataType type, Call call) {
  switch (type) {
    case DataType::kHalf:
      return call(__half{});
    case DataType::kBFloat16:
      return call(__nv_bfloat16{});
    case DataType::kDouble:
      return call(double{});
    case DataType::kFloat:
      break;
  }
  return call(float{});
}

}  // namespace outrider::kernels
