#include <cuda_fp8.h>

#include "kernels/cuda/quantize_rows.h"
#include "outrider/kernels/device_held_rows.cuh"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"
#include "outrider/kernels/device_reduce.cuh"
#include "outrider/kernels/device_whole_packs.cuh"
#include "outrider/kernels/fp8.h"

namespace outrider::cuda {
namespace {

using kernels::load_pack;
using kernels::Pack;

constexpr int kThreads = 512;

template <class T>
__device__ float magnitude(const Pack<T>& pack) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    largest = fmaxf(largest, fabsf(static_cast<float>(pack.x[i])));
  }
  return largest;
}

__device__ float largest_of_block(float largest, float* scratch) {
  largest = kernels::block_reduce(largest, scratch, [](float a, float b) { return fmaxf(a, b); });
  return fmaxf(largest, kernels::kLeastMagnitude);
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
  for (int i = 0; i < kSize; i += 2) {
    const auto pair = make_float2(static_cast<float>(pack.x[i]) * factor,
                                  static_cast<float>(pack.x[i + 1]) * factor);
    const auto bits = __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
    values.bits[i] = static_cast<__nv_fp8_storage_t>(bits);
    values.bits[i + 1] = static_cast<__nv_fp8_storage_t>(bits >> 8);
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
    float largest = 0;
    kernels::for_each_pack(in, width, [&](int64_t begin) {
      largest = fmaxf(largest, magnitude(load_pack(in, begin, width)));
    });
    largest = largest_of_block(largest, scratch);
    if (threadIdx.x == 0) scales[row] = largest / kernels::kLargestE4m3;
    const float factor = kernels::kLargestE4m3 / largest;
    kernels::for_each_pack(in, width, [&](int64_t begin) {
      store_quantized<T>(out, begin, width, load_pack(in, begin, width), factor);
    });
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    quantize_held_kernel(int64_t rows, int64_t width, const T* x, __nv_fp8_e4m3* values,
                         float* scales) {
  __shared__ float scratch[32];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    kernels::HeldRow<T> held(x + row * width, width);
    float largest = 0;
    held.for_each([&](const auto& pack, int64_t) { largest = fmaxf(largest, magnitude(pack)); });
    largest = largest_of_block(largest, scratch);
    if (threadIdx.x == 0) scales[row] = largest / kernels::kLargestE4m3;
    const float factor = kernels::kLargestE4m3 / largest;
    held.for_each([&](const auto& pack, int64_t begin) {
      store_quantized<T>(values + row * width, begin, width, pack, factor);
    });
  }
}

}  // namespace

int quantize_rows(kernels::DataType type, int64_t rows, int64_t width, const void* x, void* values,
                  float* scales, CUstream_st* stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  return kernels::with_type(type, [&]<class T>(T) {
    const bool whole = kernels::are_whole_packs<T>({width}, static_cast<const T*>(x));
    const auto holding = whole ? kernels::threads_that_hold<T>(width, kThreads) : std::nullopt;
    return kernels::launch(
        holding ? quantize_held_kernel<T> : quantize_kernel<T>, dim3(kernels::grid_size(rows)),
        dim3(holding.value_or(kernels::row_threads<T>(width, kThreads))), 0, stream, rows, width,
        static_cast<const T*>(x), static_cast<__nv_fp8_e4m3*>(values), scales);
  });
}

}  // namespace outrider::cuda
