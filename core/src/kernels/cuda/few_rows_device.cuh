#pragma once

// Shared by the kernels for few rows. Include from .cu files only.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <utility>

namespace outrider::cuda {

/// Lets the next kernel start: it waits itself for what it reads of this one. Called behind
/// wait_for_previous(), so that what is read before that was written two kernels ago or earlier.
__device__ inline void begin_dependents() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/// Waits until the kernel before has written everything. Every block of every kernel must, so that
/// the kernels before that one are finished too.
__device__ inline void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

/// Sixteen bytes that no kernel writes and that are not read again soon.
__device__ inline uint4 load_once(const void* address) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(address));
  return x;
}

/// Sixteen bytes that no kernel writes.
__device__ inline uint4 load_kept(const void* address) {
  return __ldg(static_cast<const uint4*>(address));
}

/// Sixteen bytes that the kernel before wrote.
__device__ inline uint4 load_fresh(const void* address) {
  uint4 x;
  asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(address)
               : "memory");
  return x;
}

/// Two elements that lie side by side.
__device__ inline float2 widen(uint32_t pair) {
  __nv_bfloat162 x;
  memcpy(&x, &pair, sizeof(x));
  return __bfloat1622float2(x);
}
__device__ inline uint32_t narrow(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  uint32_t result;
  memcpy(&result, &pair, sizeof(result));
  return result;
}

/// A pack of eight.
__device__ inline void widen(const uint4& bits, float (&x)[8]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = widen(words[i]);
    x[2 * i] = pair.x;
    x[2 * i + 1] = pair.y;
  }
}
__device__ inline uint4 narrowed(const float (&x)[8]) {
  return {narrow(x[0], x[1]), narrow(x[2], x[3]), narrow(x[4], x[5]), narrow(x[6], x[7])};
}

/// sums += A B of a warp, A [16,16] by rows, B [16,8] by columns, as mma.m16n8k16 lays them out.
__device__ inline void multiply(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// The same over 32 inner elements, of which the lanes of a quad have eight that follow each other:
/// of A's row g and 8 + g, of B's column g.
__device__ inline void multiply_packs(float (&sums)[4], const uint4& low, const uint4& high,
                                      const uint4& column) {
  multiply(sums, low.x, high.x, low.y, high.y, column.x, column.y);
  multiply(sums, low.z, high.z, low.w, high.w, column.z, column.w);
}

/// Launches a kernel that may begin before the one before it has ended.
template <class... Parameters, class... Arguments>
cudaError_t launch_dependent(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                             size_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace outrider::cuda
