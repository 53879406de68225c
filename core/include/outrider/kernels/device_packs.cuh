#pragma once

// Rows in packs of 16 bytes, the widest access of a thread. Device code: include from .cu files
// only.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace outrider::kernels {

/// What a type is accumulated in.
template <class T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// x as a T holds it.
template <class T>
__device__ Accumulate<T> rounded(Accumulate<T> x) {
  return static_cast<Accumulate<T>>(static_cast<T>(x));
}

/// Sixteen bytes of a row, widened.
template <class T>
struct Pack {
  static constexpr int kSize = 16 / sizeof(T);
  Accumulate<T> x[kSize];
};

/// Widens what lies in memory; bits_of() is the inverse.
template <class T>
__device__ Pack<T> pack_of(const uint4& bits) {
  T elements[Pack<T>::kSize];
  std::memcpy(elements, &bits, sizeof(bits));
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) pack.x[i] = static_cast<Accumulate<T>>(elements[i]);
  return pack;
}

template <class T>
__device__ bool is_whole_pack(const T* row, int64_t begin, int64_t size) {
  return begin >= 0 && begin + Pack<T>::kSize <= size &&
         reinterpret_cast<uintptr_t>(row + begin) % 16 == 0;
}

/// row[begin …]: one 16-byte load where the address allows it. Places outside [0,size) become
/// `fill`.
template <class T>
__device__ Pack<T> load_pack(const T* row, int64_t begin, int64_t size, Accumulate<T> fill = 0) {
  if (is_whole_pack(row, begin, size)) {
    return pack_of<T>(*reinterpret_cast<const uint4*>(row + begin));
  }
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    const int64_t at = begin + i;
    pack.x[i] = at >= 0 && at < size ? static_cast<Accumulate<T>>(row[at]) : fill;
  }
  return pack;
}

/// A pack as it lies in memory.
template <class T>
__device__ uint4 bits_of(const Pack<T>& pack) {
  constexpr int kPerWord = sizeof(unsigned) < sizeof(T) ? 1 : sizeof(unsigned) / sizeof(T);
  if constexpr (sizeof(T) > sizeof(unsigned)) {
    uint4 bits;
    std::memcpy(&bits, pack.x, sizeof(bits));
    return bits;
  } else {
    unsigned words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      T elements[kPerWord];
#pragma unroll
      for (int i = 0; i < kPerWord; ++i) {
        elements[i] = static_cast<T>(pack.x[w * kPerWord + i]);
      }
      std::memcpy(&words[w], elements, sizeof(unsigned));
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }
}

/// In one access, which the compiler might divide. Global memory.
template <class T>
__device__ void store_bits(T* to, const uint4& bits) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(bits.x), "r"(bits.y),
               "r"(bits.z), "r"(bits.w)
               : "memory");
}

/// The inverse: narrows, and leaves places outside [0,size) alone.
template <class T>
__device__ void store_pack(T* row, int64_t begin, int64_t size, const Pack<T>& pack) {
  if (is_whole_pack(row, begin, size)) {
    store_bits(row + begin, bits_of(pack));
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      const int64_t at = begin + i;
      if (at >= 0 && at < size) row[at] = static_cast<T>(pack.x[i]);
    }
  }
}

/// Where this thread's first pack begins. Packs lie on 16-byte boundaries of `row`, so the first
/// and the last of a row may reach over its ends.
template <class T>
__device__ int64_t first_pack(const T* row) {
  const auto shift = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T));
  return static_cast<int64_t>(threadIdx.x) * Pack<T>::kSize - shift;
}

/// From one pack of this thread to its next.
template <class T>
__device__ int64_t pack_stride() {
  return static_cast<int64_t>(blockDim.x) * Pack<T>::kSize;
}

/// Calls body(begin) for the packs of a row that are this thread's. The block is one-dimensional.
template <class T, class Body>
__device__ void for_each_pack(const T* row, int64_t size, Body body) {
  for (int64_t begin = first_pack(row); begin < size; begin += pack_stride<T>()) body(begin);
}

}  // namespace outrider::kernels
