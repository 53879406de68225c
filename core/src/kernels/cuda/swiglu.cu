#include "kernels/cuda/swiglu.h"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"
#include "outrider/kernels/device_whole_packs.cuh"

namespace outrider::cuda {
namespace {

using kernels::Accumulate;
using kernels::Pack;
using kernels::Packs;
using kernels::rounded;

constexpr int kThreads = 256;

// Of a half type the device's own power and quotient are exact enough.
template <class T>
__device__ Accumulate<T> sigmoid(Accumulate<T> x) {
  using A = Accumulate<T>;
  if constexpr (sizeof(T) == 2) {
    return __fdividef(1.0F, 1.0F + __expf(-x));
  } else {
    return A(1) / (A(1) + exp(-x));
  }
}

// Calls body(begin) for the packs that are this thread's, of the whole grid.
template <class T, class Body>
__device__ void for_each_of_grid(int64_t count, Body body) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = first; i * Pack<T>::kSize < count; i += stride) body(i * Pack<T>::kSize);
}

template <bool kWhole, class T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(int64_t count, const T* gate, const T* up, T* y) {
  using P = Packs<kWhole>;
  for_each_of_grid<T>(count, [&](int64_t begin) {
    auto g = P::load(gate, begin, count);
    const auto u = P::load(up, begin, count);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      g.x[i] = rounded<T>(g.x[i] * sigmoid<T>(g.x[i])) * u.x[i];
    }
    P::store(y, begin, count, g);
  });
}

template <bool kWhole, class T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(int64_t count, const T* grad_y, const T* gate, const T* up, T* grad_gate,
                    T* grad_up) {
  using P = Packs<kWhole>;
  for_each_of_grid<T>(count, [&](int64_t begin) {
    auto d = P::load(grad_y, begin, count);
    const auto g = P::load(gate, begin, count);
    auto u = P::load(up, begin, count);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      const auto s = sigmoid<T>(g.x[i]);
      const auto d_up = d.x[i] * g.x[i] * s;
      d.x[i] = d.x[i] * u.x[i] * s * (1 + g.x[i] * (1 - s));
      u.x[i] = d_up;
    }
    P::store(grad_gate, begin, count, d);
    P::store(grad_up, begin, count, u);
  });
}

template <class T>
dim3 blocks_for(int64_t count) {
  const int64_t each = int64_t{kThreads} * Pack<T>::kSize;
  return dim3(kernels::grid_size((count + each - 1) / each));
}

}  // namespace

int swiglu(kernels::DataType type, int64_t count, const void* gate, const void* up, void* y,
           CUstream_st* stream) {
  if (count == 0) return cudaSuccess;
  return kernels::with_type(type, [&]<class T>(T) {
    const auto *g = static_cast<const T*>(gate), *u = static_cast<const T*>(up);
    auto* out = static_cast<T*>(y);
    const bool whole = kernels::are_whole_packs<T>({count}, g, u, out);
    return kernels::launch(whole ? forward_kernel<true, T> : forward_kernel<false, T>,
                           blocks_for<T>(count), dim3(kThreads), 0, stream, count, g, u, out);
  });
}

int swiglu_backward(kernels::DataType type, int64_t count, const void* grad_y, const void* gate,
                    const void* up, void* grad_gate, void* grad_up, CUstream_st* stream) {
  if (count == 0) return cudaSuccess;
  return kernels::with_type(type, [&]<class T>(T) {
    const auto *d = static_cast<const T*>(grad_y), *g = static_cast<const T*>(gate),
               *u = static_cast<const T*>(up);
    auto *d_gate = static_cast<T*>(grad_gate), *d_up = static_cast<T*>(grad_up);
    const bool whole = kernels::are_whole_packs<T>({count}, d, g, u, d_gate, d_up);
    return kernels::launch(whole ? backward_kernel<true, T> : backward_kernel<false, T>,
                           blocks_for<T>(count), dim3(kThreads), 0, stream, count, d, g, u, d_gate,
                           d_up);
  });
}

}  // namespace outrider::cuda
