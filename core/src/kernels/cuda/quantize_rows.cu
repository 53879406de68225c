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

// A pack in one access where it is whole and its place allows it.
template <class T>
__device__ void store_quantized(__nv_fp8_e4m3* row, int64_t begin, int64_t width,
                                const Pack<T>& pack, float factor) {
  constexpr int kSize = Pack<T>::kSize;
  struct alignas(kSize) Values {
    __nv_fp8_storage_t bits[kSize];
  } values;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    values.bits[i] = __nv_fp8_e4m3(static_cast<float>(pack.x[i]) * factor).__x;
  }
  const bool is_whole =
      begin >= 0 && begin + kSize <= width && reinterpret_cast<uintptr_t>(row + begin) % kSize == 0;
  if (is_whole) {
    *reinterpret_cast<Values*>(row + begin) = values;
    return;
  }
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    const int64_t at = begin + i;
    if (at >= 0 && at < width) row[at].__x = values.bits[i];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(int64_t rows, int64_t width, const T* x, __nv_fp8_e4m3* values, float* scales) {
  __shared__ float scratch[32];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* in = x + row * width;
    __nv_fp8_e4m3* out = values + row * width;
    const float largest = fmaxf(magnitude(in, width, scratch), kernels::kLeastMagnitude);
    if (threadIdx.x == 0) scales[row] = largest / kernels::kLargestE4m3;
    const float factor = kernels::kLargestE4m3 / largest;
    kernels::for_each_pack(in, width, [&](int64_t begin) {
      store_quantized<T>(out, begin, width, load_pack(in, begin, width), factor);
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
