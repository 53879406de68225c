#include "gather_concat_cuda.h"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"

// A block copies, or adds up, one row of `hidden` elements at a time.

namespace hydra::cuda {
namespace {

namespace kernels = outrider::kernels;
using kernels::load_pack;
using kernels::Pack;
using kernels::store_pack;

constexpr int kMostThreads = 256;

template <class T>
__device__ int64_t begin_of_thread() {
  return static_cast<int64_t>(threadIdx.x) * Pack<T>::kSize;
}

// Parts of the result in order: part p of row n is a row of `state` for p = 0, else of
// `embeddings`.
template <class T>
__global__ void __launch_bounds__(kMostThreads)
    forward_kernel(GatherConcatShape shape, const T* state, const T* embeddings,
                   const int64_t* rows, T* out) {
  const int64_t parts = shape.count + 1;
  for (int64_t item = blockIdx.x; item < shape.rows * parts; item += gridDim.x) {
    const int64_t part = item % parts, position = rows[item / parts] + part;
    if (position < part || position >= shape.positions) __trap();
    const T* from = (part == 0 ? state : embeddings) + position * shape.hidden;
    T* to = out + item * shape.hidden;
    for (int64_t i = begin_of_thread<T>(); i < shape.hidden; i += kernels::pack_stride<T>()) {
      store_pack(to, i, shape.hidden, load_pack(from, i, shape.hidden));
    }
  }
}

// Every position gathers what came from it, so that no two blocks write to one place.
template <class T>
__global__ void __launch_bounds__(kMostThreads)
    backward_kernel(GatherConcatShape shape, const T* grad_out, const int64_t* place, T* grad_state,
                    T* grad_embeddings) {
  const int64_t parts = shape.count + 1;
  for (int64_t position = blockIdx.x; position < shape.positions; position += gridDim.x) {
    for (int64_t i = begin_of_thread<T>(); i < shape.hidden; i += kernels::pack_stride<T>()) {
      Pack<T> state = {}, embedding = {};
      for (int64_t part = 0; part < parts && part <= position; ++part) {
        const int64_t row = place[position - part];
        if (row < 0) continue;
        const auto grad =
            load_pack(grad_out + (row * parts + part) * shape.hidden, i, shape.hidden);
        Pack<T>& sum = part == 0 ? state : embedding;
#pragma unroll
        for (int j = 0; j < Pack<T>::kSize; ++j) sum.x[j] += grad.x[j];
      }
      store_pack(grad_state + position * shape.hidden, i, shape.hidden, state);
      store_pack(grad_embeddings + position * shape.hidden, i, shape.hidden, embedding);
    }
  }
}

template <class T>
dim3 block_of(const GatherConcatShape& shape) {
  return dim3(static_cast<unsigned>(kernels::row_threads<T>(shape.hidden, kMostThreads)));
}

}  // namespace

int forward(const GatherConcatShape& shape, const void* state, const void* embeddings,
            const int64_t* rows, void* out, CUstream_st* stream) {
  if (shape.rows == 0 || shape.hidden == 0) return cudaSuccess;
  return kernels::with_type(shape.type, [&]<class T>(T) {
    return kernels::launch(forward_kernel<T>,
                           dim3(kernels::grid_size(shape.rows * (shape.count + 1))),
                           block_of<T>(shape), 0, stream, shape, static_cast<const T*>(state),
                           static_cast<const T*>(embeddings), rows, static_cast<T*>(out));
  });
}

int backward(const GatherConcatShape& shape, const void* grad_out, const int64_t* place,
             void* grad_state, void* grad_embeddings, CUstream_st* stream) {
  if (shape.positions == 0 || shape.hidden == 0) return cudaSuccess;
  return kernels::with_type(shape.type, [&]<class T>(T) {
    return kernels::launch(backward_kernel<T>, dim3(kernels::grid_size(shape.positions)),
                           block_of<T>(shape), 0, stream, shape, static_cast<const T*>(grad_out),
                           place, static_cast<T*>(grad_state), static_cast<T*>(grad_embeddings));
  });
}

}  // namespace hydra::cuda
