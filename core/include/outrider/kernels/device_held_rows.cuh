#pragma once

// Rows that a block holds in registers, so that each is read once and all of it is on its way at a
// time. Device code: include from .cu files only.

#include <cstdint>
#include <optional>

#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"
#include "outrider/kernels/device_whole_packs.cuh"

namespace outrider::kernels {

/// A thread's part of the row of whole packs that the threads of one threadIdx.y hold together.
template <class T>
struct HeldRow {
  static constexpr int kPacks = 4;
  Pack<T> packs[kPacks];

  __device__ HeldRow(const T* row, int64_t size) {
    for_each([&](Pack<T>& pack, int64_t begin) { pack = Packs<true>::load(row, begin, size); });
  }

  /// body(pack, where it begins); what lies beyond the row's end is zeros.
  template <class Body>
  __device__ void for_each(Body body) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      body(packs[i], (int64_t{i} * blockDim.x + threadIdx.x) * Pack<T>::kSize);
    }
  }
};

/// The same as it lies in memory, of so many packs: half the registers, or a quarter.
template <class T, int kPacks>
struct HeldBits {
  uint4 bits[kPacks];

  __device__ static int64_t begin(int i) {
    return (int64_t{i} * blockDim.x + threadIdx.x) * Pack<T>::kSize;
  }
  /// What lies beyond the row's end is zeros.
  __device__ void load(const T* row, int64_t size) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      bits[i] = begin(i) < size ? *reinterpret_cast<const uint4*>(row + begin(i)) : uint4{};
    }
  }
  __device__ Pack<T> pack(int i) const { return pack_of<T>(bits[i]); }
};

/// Whether one warp holds a row.
template <class T>
bool warp_holds(int64_t width) {
  return width <= 32 * HeldRow<T>::kPacks * Pack<T>::kSize;
}

/// Threads of a block, at most `limit`, that hold a row of whole packs; none for wider ones, and
/// where blocks would be a warp, too few threads at a time.
template <class T>
std::optional<int> threads_that_hold(int64_t width, int limit) {
  constexpr int kPacks = HeldRow<T>::kPacks;
  const int threads = row_threads<T>((width + kPacks - 1) / kPacks, limit);
  const bool fits = width <= int64_t{threads} * kPacks * Pack<T>::kSize;
  return fits && threads > 32 ? std::optional(threads) : std::nullopt;
}

}  // namespace outrider::kernels
