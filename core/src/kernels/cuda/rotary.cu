#include <algorithm>

#include "kernels/cuda/rotary.h"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"
#include "outrider/kernels/device_whole_packs.cuh"

// A block turns all heads of some positions; a thread holds a pack of a vector's first half and the
// pack of its second half that turns with it, of some heads one after another: the tables stay.

namespace outrider::cuda {
namespace {

using kernels::Pack;
using kernels::Packs;
using kernels::rounded;

constexpr int kMostThreads = 256;
// Heads that a thread turns one after another, and of these at once: what it loads for them is on
// its way together.
constexpr int kHeadsInTurn = 4, kAtOnce = 2;
// So that a block holds a head, in the widest type.
constexpr int64_t kMostRotated = 1024;

/// Of one position, for a pack and the one that turns with it.
template <class T>
struct TablePacks {
  Pack<T> c1, c2, s1, s2;
};

template <bool kWhole, class T>
__device__ TablePacks<T> load_tables(const T* cos, const T* sin, int64_t begin, int64_t half) {
  using P = Packs<kWhole>;
  return {P::load(cos, begin, half), P::load(cos + half, begin, half), P::load(sin, begin, half),
          P::load(sin + half, begin, half)};
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

/// A block's threads: `packs` of a half for each of `beside` heads at a time, for each of some
/// positions.
struct Division {
  int packs, beside, positions;

  int threads() const { return packs * beside * positions; }
};

template <class T, bool kInverse, bool kWhole>
__global__ void __launch_bounds__(kMostThreads)
    rotary_kernel(RotaryShape shape, RotaryPair pair, const T* cos, const T* sin, Division by) {
  using P = Packs<kWhole>;
  const auto thread = static_cast<int>(threadIdx.x), lanes = by.packs * by.beside;
  const unsigned row = blockIdx.x * by.positions + thread / lanes;
  const auto length = static_cast<unsigned>(shape.length);
  const int64_t sequence = row / length, position = row % length;
  if (sequence >= shape.batch) return;
  const int64_t table = sequence * shape.table_stride + position * shape.rotated;
  const auto heads = static_cast<int>(pair.first.heads + pair.second.heads);
  const int64_t half = shape.rotated / 2;
  const int lane = thread % lanes;
  const int64_t begin = int64_t{lane % by.packs} * Pack<T>::kSize;
  const auto tables = load_tables<kWhole>(cos + table, sin + table, begin, half);
  for (int head = lane / by.packs; head < heads; head += kAtOnce * by.beside) {
    Vector<T> vectors[kAtOnce];
    Pack<T> first[kAtOnce], second[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int own = head + i * by.beside;
      vectors[i] = vector_of<T>(pair, own, sequence, position);
      const int64_t there = own < heads ? half : 0;
      first[i] = P::load(vectors[i].from, begin, there);
      second[i] = P::load(vectors[i].from + half, begin, there);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t there = head + i * by.beside < heads ? half : 0;
      turn<T, kInverse>(first[i], second[i], tables);
      P::store(vectors[i].to, begin, there, first[i]);
      P::store(vectors[i].to + half, begin, there, second[i]);
    }
  }
  const auto kept = static_cast<int>(shape.head_dim - shape.rotated);
  for (int item = lane; item < kept * heads; item += lanes) {
    const auto [from, to] = vector_of<T>(pair, item / kept, sequence, position);
    to[shape.rotated + item % kept] = from[shape.rotated + item % kept];
  }
}

// Some heads one after another, for which the tables are loaded once.
template <class T>
Division division_of(const RotaryShape& shape, int64_t heads) {
  const auto packs = static_cast<int>(
      std::max<int64_t>(1, (shape.rotated / 2 + Pack<T>::kSize - 1) / Pack<T>::kSize));
  const auto wanted = static_cast<int>((heads + kHeadsInTurn - 1) / kHeadsInTurn);
  const int beside = std::clamp(wanted, 1, kMostThreads / packs);
  return {packs, beside, std::max(1, kMostThreads / (packs * beside))};
}

template <class T>
bool are_whole(const RotaryHeads& heads) {
  const auto is_whole = [](const void* x, const RotaryStrides& by) {
    return kernels::are_whole_packs<T>({by.batch, by.head, by.length}, static_cast<const T*>(x));
  };
  return heads.heads == 0 || (is_whole(heads.x, heads.from) && is_whole(heads.y, heads.to));
}

/// Whether every half of a vector and of a table is whole packs.
template <class T>
bool are_whole(const RotaryShape& shape, const RotaryPair& pair, const T* cos, const T* sin) {
  return kernels::are_whole_packs<T>({shape.rotated / 2, shape.table_stride}, cos, sin) &&
         are_whole<T>(pair.first) && are_whole<T>(pair.second);
}

template <class T>
auto kernel_for(bool inverse, bool whole) {
  if (whole) return inverse ? rotary_kernel<T, true, true> : rotary_kernel<T, false, true>;
  return inverse ? rotary_kernel<T, true, false> : rotary_kernel<T, false, false>;
}

}  // namespace

int rotary(const RotaryShape& shape, const RotaryPair& pair, const void* cos, const void* sin,
           bool inverse, CUstream_st* stream) {
  const int64_t heads = pair.first.heads + pair.second.heads;
  if (shape.batch * shape.length * heads == 0) return cudaSuccess;
  if (shape.rotated > kMostRotated) return cudaErrorInvalidValue;
  return kernels::with_type(shape.type, [&]<class T>(T) {
    const auto *c = static_cast<const T*>(cos), *s = static_cast<const T*>(sin);
    const auto kernel = kernel_for<T>(inverse, are_whole(shape, pair, c, s));
    const auto by = division_of<T>(shape, heads);
    const int64_t blocks = (shape.batch * shape.length + by.positions - 1) / by.positions;
    return kernels::launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(by.threads()), 0,
                           stream, shape, pair, c, s, by);
  });
}

}  // namespace outrider::cuda
