#include "kernels/cuda/swiglu.h"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"

namespace outrider::cuda {
namespace {

using kernels::Accumulate;
using kernels::load_pack;
using kernels::Pack;
using kernels::rounded;
using kernels::store_pack;

constexpr int kThreads = 256;

template <class A>
__device__ A sigmoid(A x) {
  return A(1) / (A(1) + exp(-x));
}

// Calls body(begin) for the packs that are this thread's, of the whole grid.
template <class T, class Body>
__device__ void for_each_of_grid(int64_t count, Body body) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = first; i * Pack<T>::kSize < count; i += stride) body(i * Pack<T>::kSize);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(int64_t count, const T* gate, const T* up, T* y) {
  for_each_of_grid<T>(count, [&](int64_t begin) {
    auto g = load_pack(gate, begin, count);
    const auto u = load_pack(up, begin, count);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      g.x[i] = rounded<T>(g.x[i] * sigmoid(g.x[i])) * u.x[i];
    }
    store_pack(y, begin, count, g);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(int64_t count, const T* grad_y, const T* gate, const T* up, T* grad_gate,
                    T* grad_up) {
  for_each_of_grid<T>(count, [&](int64_t begin) {
    auto d = load_pack(grad_y, begin, count);
    const auto g = load_pack(gate, begin, count);
    auto u = load_pack(up, begin, count);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      const auto s = sigmoid(g.x[i]);
      const auto d_up = d.x[i] * g.x[i] * s;
      d.x[i] = d.x[i] * u.x[i] * s * (1 + g.x[i] * (1 - s));
      u.x[i] = d_up;
    }
    store_pack(grad_gate, begin, count, d);
    store_pack(grad_up, begin, count, u);
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
    return kernels::launch(forward_kernel<T>, blocks_for<T>(count), dim3(kThreads), 0, stream,
                           count, static_cast<const T*>(gate), static_cast<const T*>(up),
                           static_cast<T*>(y));
  });
}

int swiglu_backward(kernels::DataType type, int64_t count, const void* grad_y, const void* gate,
                    const void* up, void* grad_gate, void* grad_up, CUstream_st* stream) {
  if (count == 0) return cudaSuccess;
  return kernels::with_type(type, [&]<class T>(T) {
    return kernels::launch(backward_kernel<T>, blocks_for<T>(count), dim3(kThreads), 0, stream,
                           count, static_cast<const T*>(grad_y), static_cast<const T*>(gate),
                           static_cast<const T*>(up), static_cast<T*>(grad_gate),
                           static_cast<T*>(grad_up));
  });
}

}  // namespace outrider::cuda
