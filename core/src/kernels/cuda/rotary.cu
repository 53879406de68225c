#include <algorithm>

#include "kernels/cuda/rotary.h"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"

// A block turns all heads of one position; a thread holds a pack of a vector's first half and the
// pack of its second half that turns with it, of one head after another: the tables stay.

namespace outrider::cuda {
namespace {

using kernels::load_pack;
using kernels::Pack;
using kernels::rounded;
using kernels::store_pack;

constexpr int kMostThreads = 256;
// So that a block holds a head, in the widest type.
constexpr int64_t kMostRotated = 1024;

/// Of one position, for a pack and the one that turns with it.
template <class T>
struct TablePacks {
  Pack<T> c1, c2, s1, s2;
};

template <class T>
__device__ TablePacks<T> load_tables(const T* cos, const T* sin, int64_t begin, int64_t half) {
  return {load_pack(cos, begin, half), load_pack(cos + half, begin, half),
          load_pack(sin, begin, half), load_pack(sin + half, begin, half)};
}

// The pair (first, second) turned: (x1 c1 - x2 s1, x2 c2 + x1 s2), or its transpose.
template <class T, bool kInverse>
__device__ void turn(Pack<T>& first, Pack<T>& second, const TablePacks<T>& tables) {
  const auto& [c1, c2, s1, s2] = tables;
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
__global__ void __launch_bounds__(kMostThreads)
    rotary_kernel(RotaryShape shape, const T* x, const T* cos, const T* sin, T* y) {
  const int64_t sequence = blockIdx.x / shape.length, position = blockIdx.x % shape.length;
  const int64_t table = (shape.table_batch == 1 ? 0 : sequence) * shape.length + position;
  const T* in = x + sequence * shape.batch_stride + position * shape.length_stride;
  T* out = y + static_cast<int64_t>(blockIdx.x) * shape.heads * shape.head_dim;
  const int64_t half = shape.rotated / 2;
  const auto packs = static_cast<int>((half + Pack<T>::kSize - 1) / Pack<T>::kSize);
  const int beside = static_cast<int>(blockDim.x) / packs;  // heads that the block turns at a time
  const int64_t begin = int64_t{static_cast<int>(threadIdx.x) % packs} * Pack<T>::kSize;
  const auto tables =
      load_tables(cos + table * shape.rotated, sin + table * shape.rotated, begin, half);
  const int first_head = static_cast<int>(threadIdx.x) / packs;
  for (int64_t head = first_head < beside ? first_head : shape.heads; head < shape.heads;
       head += beside) {
    const T* from = in + head * shape.head_stride;
    T* to = out + head * shape.head_dim;
    auto first = load_pack(from, begin, half), second = load_pack(from + half, begin, half);
    turn<T, kInverse>(first, second, tables);
    store_pack(to, begin, half, first);
    store_pack(to + half, begin, half, second);
  }
  const auto kept = static_cast<int>(shape.head_dim - shape.rotated);
  for (int item = static_cast<int>(threadIdx.x); item < kept * shape.heads; item += blockDim.x) {
    const int64_t head = item / kept, place = shape.rotated + item % kept;
    out[head * shape.head_dim + place] = in[head * shape.head_stride + place];
  }
}

// At least one head's packs; some heads one after another, for which the tables are loaded once.
template <class T>
int threads_for(const RotaryShape& shape) {
  constexpr int64_t kHeadsInTurn = 4;
  const int64_t packs = (shape.rotated / 2 + Pack<T>::kSize - 1) / Pack<T>::kSize;
  const int64_t wanted = packs * ((shape.heads + kHeadsInTurn - 1) / kHeadsInTurn);
  return static_cast<int>(std::clamp<int64_t>((wanted + 31) / 32 * 32, 32, kMostThreads));
}

}  // namespace

int rotary(const RotaryShape& shape, const void* x, const void* cos, const void* sin, bool inverse,
           void* y, CUstream_st* stream) {
  if (shape.batch * shape.length * shape.heads == 0) return cudaSuccess;
  if (shape.rotated > kMostRotated) return cudaErrorInvalidValue;
  return kernels::with_type(shape.type, [&]<class T>(T) {
    const auto kernel = inverse ? rotary_kernel<T, true> : rotary_kernel<T, false>;
    return kernels::launch(kernel, dim3(static_cast<unsigned>(shape.batch * shape.length)),
                           dim3(threads_for<T>(shape)), 0, stream, shape, static_cast<const T*>(x),
                           static_cast<const T*>(cos), static_cast<const T*>(sin),
                           static_cast<T*>(y));
  });
}

}  // namespace outrider::cuda
