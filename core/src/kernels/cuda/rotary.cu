#include <algorithm>

#include "kernels/cuda/rotary.h"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"

// A block turns all heads of one position; a thread holds a pack of a vector's first half and the
// pack of its second half that turns with it.

namespace outrider::cuda {
namespace {

using kernels::load_pack;
using kernels::Pack;
using kernels::rounded;
using kernels::store_pack;

constexpr int kThreads = 256;

template <class T>
struct Tables {
  const T *cos, *sin;  // of one position
};

// The pair (first, second) turned: (x1 c1 - x2 s1, x2 c2 + x1 s2), or its transpose.
template <class T, bool kInverse>
__device__ void turn(Pack<T>& first, Pack<T>& second, const Tables<T>& tables, int64_t begin,
                     int64_t half) {
  const auto c1 = load_pack(tables.cos, begin, half), s1 = load_pack(tables.sin, begin, half);
  const auto c2 = load_pack(tables.cos + half, begin, half);
  const auto s2 = load_pack(tables.sin + half, begin, half);
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    const auto a = first.x[i], b = second.x[i];
    if constexpr (kInverse) {
      first.x[i] = a * c1.x[i] + b * s2.x[i];
      second.x[i] = b * c2.x[i] - a * s1.x[i];
    } else {
      first.x[i] = rounded<T>(a * c1.x[i]) - rounded<T>(b * s1.x[i]);
      second.x[i] = rounded<T>(b * c2.x[i]) + rounded<T>(a * s2.x[i]);
    }
  }
}

template <class T, bool kInverse>
__global__ void __launch_bounds__(kThreads)
    rotary_kernel(RotaryShape shape, const T* x, const T* cos, const T* sin, T* y) {
  const int64_t sequence = blockIdx.x / shape.length, position = blockIdx.x % shape.length;
  const int64_t table = (shape.table_batch == 1 ? 0 : sequence) * shape.length + position;
  const Tables<T> tables{cos + table * shape.rotated, sin + table * shape.rotated};
  const T* in = x + sequence * shape.batch_stride + position * shape.length_stride;
  T* out = y + static_cast<int64_t>(blockIdx.x) * shape.heads * shape.head_dim;
  const int64_t half = shape.rotated / 2;
  const auto packs = static_cast<int>((half + Pack<T>::kSize - 1) / Pack<T>::kSize);
  const auto items = static_cast<int>(shape.heads) * packs;
  for (int item = static_cast<int>(threadIdx.x); item < items; item += blockDim.x) {
    const int64_t head = item / packs, begin = int64_t{item % packs} * Pack<T>::kSize;
    const T* from = in + head * shape.head_stride;
    T* to = out + head * shape.head_dim;
    auto first = load_pack(from, begin, half), second = load_pack(from + half, begin, half);
    turn<T, kInverse>(first, second, tables, begin, half);
    store_pack(to, begin, half, first);
    store_pack(to + half, begin, half, second);
  }
  const auto kept = static_cast<int>(shape.head_dim - shape.rotated);
  for (int item = static_cast<int>(threadIdx.x); item < kept * shape.heads; item += blockDim.x) {
    const int64_t head = item / kept, place = shape.rotated + item % kept;
    out[head * shape.head_dim + place] = in[head * shape.head_stride + place];
  }
}

template <class T>
int threads_for(const RotaryShape& shape) {
  const int64_t wanted = shape.heads * (shape.rotated / 2 / Pack<T>::kSize + 1);
  return static_cast<int>(std::clamp<int64_t>((wanted + 31) / 32 * 32, 32, kThreads));
}

}  // namespace

int rotary(const RotaryShape& shape, const void* x, const void* cos, const void* sin, bool inverse,
           void* y, CUstream_st* stream) {
  if (shape.batch * shape.length * shape.heads == 0) return cudaSuccess;
  return kernels::with_type(shape.type, [&]<class T>(T) {
    const auto kernel = inverse ? rotary_kernel<T, true> : rotary_kernel<T, false>;
    return kernels::launch(kernel, dim3(static_cast<unsigned>(shape.batch * shape.length)),
                           dim3(threads_for<T>(shape)), 0, stream, shape, static_cast<const T*>(x),
                           static_cast<const T*>(cos), static_cast<const T*>(sin),
                           static_cast<T*>(y));
  });
}

}  // namespace outrider::cuda
