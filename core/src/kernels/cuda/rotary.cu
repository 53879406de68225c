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

/// One head's vector at one position, and where it goes.
template <class T>
struct Vector {
  const T* from;
  T* to;
};

template <class T>
__device__ Vector<T> vector_of(const RotaryPair& pair, int64_t head, int64_t sequence,
                               int64_t position) {
  const bool is_first = head < pair.first.heads;
  const auto& heads = is_first ? pair.first : pair.second;
  const int64_t own = is_first ? head : head - pair.first.heads;
  const auto offset = [&](const RotaryStrides& strides) {
    return sequence * strides.batch + own * strides.head + position * strides.length;
  };
  return {static_cast<const T*>(heads.x) + offset(heads.from),
          static_cast<T*>(heads.y) + offset(heads.to)};
}

template <class T, bool kInverse>
__global__ void __launch_bounds__(kMostThreads)
    rotary_kernel(RotaryShape shape, RotaryPair pair, const T* cos, const T* sin) {
  const int64_t sequence = blockIdx.x / shape.length, position = blockIdx.x % shape.length;
  const int64_t table = (shape.table_batch == 1 ? 0 : sequence) * shape.length + position;
  const int64_t heads = pair.first.heads + pair.second.heads;
  const int64_t half = shape.rotated / 2;
  const auto packs = static_cast<int>((half + Pack<T>::kSize - 1) / Pack<T>::kSize);
  const int beside = static_cast<int>(blockDim.x) / packs;  // heads that the block turns at a time
  const int64_t begin = int64_t{static_cast<int>(threadIdx.x) % packs} * Pack<T>::kSize;
  const auto tables =
      load_tables(cos + table * shape.rotated, sin + table * shape.rotated, begin, half);
  const int first_head = static_cast<int>(threadIdx.x) / packs;
  for (int64_t head = first_head < beside ? first_head : heads; head < heads; head += beside) {
    const auto [from, to] = vector_of<T>(pair, head, sequence, position);
    auto first = load_pack(from, begin, half), second = load_pack(from + half, begin, half);
    turn<T, kInverse>(first, second, tables);
    store_pack(to, begin, half, first);
    store_pack(to + half, begin, half, second);
  }
  const auto kept = static_cast<int>(shape.head_dim - shape.rotated);
  for (int item = static_cast<int>(threadIdx.x); item < kept * heads; item += blockDim.x) {
    const auto [from, to] = vector_of<T>(pair, item / kept, sequence, position);
    to[shape.rotated + item % kept] = from[shape.rotated + item % kept];
  }
}

// At least one head's packs; some heads one after another, for which the tables are loaded once.
template <class T>
int threads_for(const RotaryShape& shape, int64_t heads) {
  constexpr int64_t kHeadsInTurn = 4;
  const int64_t packs = (shape.rotated / 2 + Pack<T>::kSize - 1) / Pack<T>::kSize;
  const int64_t wanted = packs * ((heads + kHeadsInTurn - 1) / kHeadsInTurn);
  return static_cast<int>(std::clamp<int64_t>((wanted + 31) / 32 * 32, 32, kMostThreads));
}

}  // namespace

int rotary(const RotaryShape& shape, const RotaryPair& pair, const void* cos, const void* sin,
           bool inverse, CUstream_st* stream) {
  const int64_t heads = pair.first.heads + pair.second.heads;
  if (shape.batch * shape.length * heads == 0) return cudaSuccess;
  if (shape.rotated > kMostRotated) return cudaErrorInvalidValue;
  return kernels::with_type(shape.type, [&]<class T>(T) {
    const auto kernel = inverse ? rotary_kernel<T, true> : rotary_kernel<T, false>;
    return kernels::launch(kernel, dim3(static_cast<unsigned>(shape.batch * shape.length)),
                           dim3(threads_for<T>(shape, heads)), 0, stream, shape, pair,
                           static_cast<const T*>(cos), static_cast<const T*>(sin));
  });
}

}  // namespace outrider::cuda
