#pragma once

// Rows that are whole packs, which are read without a branch, so that what a thread reads is on its
// way together: load_pack() waits for each pack before the next. Device code: include from .cu
// files only.

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "outrider/kernels/device_packs.cuh"

namespace outrider::kernels {

/// load_pack and store_pack; kWhole: of rows that are whole packs, see are_whole_packs.
template <bool kWhole>
struct Packs {
  template <class T>
  __device__ static Pack<T> load(const T* row, int64_t begin, int64_t size,
                                 Accumulate<T> fill = 0) {
    if constexpr (kWhole) {
      Pack<T> pack;
#pragma unroll
      for (auto& x : pack.x) x = fill;
      uint4 bits = bits_of(pack);
      if (begin < size) bits = *reinterpret_cast<const uint4*>(row + begin);
      return pack_of<T>(bits);
    } else {
      return load_pack(row, begin, size, fill);
    }
  }

  template <class T>
  __device__ static void store(T* row, int64_t begin, int64_t size, const Pack<T>& pack) {
    if constexpr (kWhole) {
      if (begin < size) store_bits(row + begin, bits_of(pack));
    } else {
      store_pack(row, begin, size, pack);
    }
  }
};

/// Whether rows are whole packs: each of `widths` is a row's width or how far rows lie apart, where
/// that is no multiple of their width.
template <class T, class... Pointers>
bool are_whole_packs(std::initializer_list<int64_t> widths, const Pointers*... rows) {
  const auto is_whole = [](int64_t width) { return width % Pack<T>::kSize == 0; };
  return std::all_of(widths.begin(), widths.end(), is_whole) &&
         ((reinterpret_cast<uintptr_t>(rows) % 16 == 0) && ...);
}

}  // namespace outrider::kernels
