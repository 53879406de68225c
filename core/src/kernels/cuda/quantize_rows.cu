#include <cuda_fp8.h>

#include "kernels/cuda/quantize_rows.h"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"
#include "outrider/kernels/device_reduce.cuh"
#include "outrider/kernels/fp8.h"

namespace outrider::cuda {
namespace {

using kernels::load_pack;
using kernels::Pack;

constexpr int kThreads = 512;

template <class T>
__device__ float magnitude(const T* row, int64_t width, float* scratch) {
  float largest = 0;
  kernels::for_each_pack(row, width, [&](int64_t begin) {
    const auto pack = load_pack(row, begin, width);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      largest = fmaxf(largest, fabsf(static_cast<float>(pack.x[i])));
    }
  });
  return kernels::block_reduce(largest, scratch, [](float a, float b) { return fmaxf(a, b); });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(int64_t rows, int64_t width, const T* x, __nv_fp8_e4m3* values, float* scales) {
  __shared__ float scratch[32];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* in = x + row * width;
    __nv_fp8_e4m3* out = values + row * width;
    const float scale =
        fmaxf(magnitude(in, width, scratch), kernels::kLeastMagnitude) / kernels::kLargestE4m3;
    if (threadIdx.x == 0) scales[row] = scale;
    kernels::for_each_pack(in, width, [&](int64_t begin) {
      const auto pack = load_pack(in, begin, width);
#pragma unroll
      for (int i = 0; i < Pack<T>::kSize; ++i) {
        const int64_t at = begin + i;
        if (at >= 0 && at < width) {
          out[at] = __nv_fp8_e4m3(static_cast<float>(pack.x[i]) / scale);
        }
      }
    });
  }
}

}  // namespace

int quantize_rows(kernels::DataType type, int64_t rows, int64_t width, const void* x, void* values,
                  float* scales, CUstream_st* stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  return kernels::with_type(type, [&]<class T>(T) {
    return kernels::launch(quantize_kernel<T>, dim3(kernels::grid_size(rows)),
                           dim3(kernels::row_threads<T>(width, kThreads)), 0, stream, rows, width,
                           static_cast<const T*>(x), static_cast<__nv_fp8_e4m3*>(values), scales);
  });
}

}  // namespace outrider::cuda
