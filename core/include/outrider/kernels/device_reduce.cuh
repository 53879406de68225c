#pragma once

// Reductions over the threads of a block. Device code: include from .cu files only.

#include <cuda_runtime.h>

#include <cstring>
#include <type_traits>

namespace outrider::kernels {

template <class Value>
__device__ Value shuffle_xor(const Value& value, int mask) {
  static_assert(std::is_trivially_copyable_v<Value> && sizeof(Value) % sizeof(int) == 0);
  int words[sizeof(Value) / sizeof(int)];
  std::memcpy(words, &value, sizeof(Value));
#pragma unroll
  for (int& word : words) word = __shfl_xor_sync(0xffffffffu, word, mask);
  Value result;
  std::memcpy(&result, words, sizeof(Value));
  return result;
}

/// Shared memory for block_reduce of Largest or smaller values. Bytes: a type with initialisers
/// cannot be shared memory.
template <class Largest>
struct ReduceScratch {
  alignas(16) unsigned char bytes[32 * sizeof(Largest)];

  template <class Value = Largest>
  __device__ Value* as() {
    static_assert(sizeof(Value) <= sizeof(Largest));
    return reinterpret_cast<Value*>(bytes);
  }
};

/// combine() over the values of a block, in a fixed order; every thread gets the result. The block
/// has a power of two of whole warps, and combine(a,b) must equal combine(b,a) bit by bit.
/// `scratch` is shared memory for 32 values. Also a barrier for the block.
template <class Value, class Combine>
__device__ Value block_reduce(Value value, Value* scratch, Combine combine) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  __syncthreads();
  if (lane == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[lane % warps];
  for (int mask = warps / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  return value;
}

}  // namespace outrider::kernels
