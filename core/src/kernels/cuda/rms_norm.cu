#include <algorithm>

#include "kernels/cuda/rms_norm.h"
#include "outrider/kernels/device_held_norms.cuh"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_rms_norm.cuh"

namespace outrider::cuda {
namespace {

using kernels::Accumulate;
using kernels::ColumnOrder;
using kernels::RmsShape;
using kernels::RowSums;

constexpr int kThreads = 512;
constexpr size_t kSharedLimit = 96 * 1024;  // two blocks still fit

template <class T>
struct Norm {
  RmsShape<T> shape;
  int64_t rows;
  const T *x, *w;
};

template <class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(Norm<T> n, T* y) {
  __shared__ kernels::ReduceScratch<RowSums<Accumulate<T>>> scratch;
  for (int64_t row = blockIdx.x; row < n.rows; row += gridDim.x) {
    const int64_t offset = row * n.shape.hidden;
    kernels::norm_row(n.shape, n.x + offset, n.w, y + offset, scratch.as());
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) held_rows_kernel(Norm<T> n, T* y) {
  __shared__ kernels::ReduceScratch<RowSums<Accumulate<T>>> scratch;
  for (int64_t row = blockIdx.x; row < n.rows; row += gridDim.x) {
    const int64_t offset = row * n.shape.hidden;
    kernels::norm_held_row(n.shape, n.x + offset, n.w, y + offset, scratch.as());
  }
}

// A warp for each row.
template <class T>
__global__ void __launch_bounds__(kThreads) narrow_rows_kernel(Norm<T> n, T* y) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= n.rows) return;
  const int64_t offset = row * n.shape.hidden;
  kernels::norm_row_of_warp(n.shape, n.x + offset, n.w, y + offset);
}

// A block goes over some rows and keeps its share of the weight's gradient.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kernel(Norm<T> n, const T* grad_y, T* grad_x, Accumulate<T>* workspace,
                    bool sums_in_shared_memory) {
  __shared__ kernels::ReduceScratch<RowSums<Accumulate<T>>> scratch;
  extern __shared__ uint4 dynamic_shared[];
  auto* shared = reinterpret_cast<Accumulate<T>*>(dynamic_shared);
  const int64_t hidden = n.shape.hidden;
  const kernels::BlockLines<T, 1> lines(hidden, workspace,
                                        sums_in_shared_memory ? shared : nullptr);
  // A column changes hands between rows of different alignment: every row begins with a barrier.
  for (int64_t row = blockIdx.x; row < n.rows; row += gridDim.x) {
    const int64_t offset = row * hidden;
    kernels::norm_row_backward(n.shape, n.x + offset, n.w, grad_y + offset,
                               grad_x ? grad_x + offset : nullptr, lines.order(), lines.line(0),
                               scratch.as());
  }
  lines.finish();
}

template <class T>
struct BackwardRows {
  int64_t hidden;
  const T *all_x, *all_grads;
  T* all_grad_x;

  __device__ const T* x(int64_t row) const { return all_x + row * hidden; }
  __device__ const T* grad(int64_t row) const { return all_grads + row * hidden; }
  __device__ T* grad_x(int64_t row) const {
    return all_grad_x ? all_grad_x + row * hidden : nullptr;
  }
};

template <int kPacks, class T>
__global__ void __launch_bounds__(kThreads, kPacks == 1 ? 2 : 1)
    held_backward_kernel(Norm<T> n, const T* grad_y, T* grad_x, Accumulate<T>* workspace) {
  __shared__ kernels::ReduceScratch<RowSums<Accumulate<T>>> scratch;
  const ColumnOrder<T> order(n.shape.hidden);
  const BackwardRows<T> rows{n.shape.hidden, n.x, grad_y, grad_x};
  kernels::norm_rows_backward<kPacks>(n.shape, n.rows, n.w, rows, order,
                                      workspace + blockIdx.x * order.size(), scratch.as());
}

template <class T>
Norm<T> norm_of(const RmsNormShape& shape, const void* x, const void* w) {
  return {{shape.hidden, static_cast<Accumulate<T>>(shape.eps)},
          shape.rows,
          static_cast<const T*>(x),
          static_cast<const T*>(w)};
}

template <class T>
int64_t backward_blocks(const RmsNormShape& shape) {
  return kernels::line_blocks<T>(shape.rows, shape.hidden, kThreads);
}

template <class T>
size_t line_bytes(const RmsNormShape& shape) {
  return static_cast<size_t>(ColumnOrder<T>(shape.hidden).size()) * sizeof(Accumulate<T>);
}

template <class T>
cudaError_t launch_backward(const RmsNormShape& shape, const Norm<T>& norm, const T* grad_y,
                            T* grad_x, Accumulate<T>* workspace, cudaStream_t stream) {
  if (shape.rows == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(backward_blocks<T>(shape))),
      block(kernels::row_threads<T>(shape.hidden, kThreads));
  const bool whole = kernels::are_whole_packs<T>({shape.hidden}, norm.x, norm.w, grad_y, grad_x);
  const int packs = whole ? kernels::packs_for_backward<T>(shape.hidden, kThreads) : 0;
  if (packs > 0) {
    return kernels::launch(packs == 1 ? held_backward_kernel<1, T> : held_backward_kernel<2, T>,
                           grid, block, 0, stream, norm, grad_y, grad_x, workspace);
  }
  const auto kernel = backward_kernel<T>;
  const size_t bytes = line_bytes<T>(shape);
  const bool fits = bytes <= kSharedLimit;
  if (fits) {
    const auto status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             static_cast<int>(kSharedLimit));
    if (status != cudaSuccess) return status;
  }
  return kernels::launch(kernel, grid, block, fits ? bytes : 0, stream, norm, grad_y, grad_x,
                         workspace, fits);
}

}  // namespace

int rms_norm(const RmsNormShape& shape, const void* x, const void* w, void* y,
             CUstream_st* stream) {
  if (shape.rows == 0 || shape.hidden == 0) return cudaSuccess;
  return kernels::with_type(shape.type, [&]<class T>(T) {
    const auto norm = norm_of<T>(shape, x, w);
    const bool whole =
        kernels::are_whole_packs<T>({shape.hidden}, norm.x, norm.w, static_cast<T*>(y));
    const kernels::NormKernels<void (*)(Norm<T>, T*)> all{narrow_rows_kernel<T>,
                                                          held_rows_kernel<T>, forward_kernel<T>};
    return kernels::launch_norms<T>(all, whole, shape.rows, shape.hidden, 1, kThreads, stream, norm,
                                    static_cast<T*>(y));
  });
}

size_t rms_norm_workspace_bytes(const RmsNormShape& shape) {
  return kernels::with_type(shape.type, [&]<class T>(T) {
    return static_cast<size_t>(backward_blocks<T>(shape)) * line_bytes<T>(shape);
  });
}

int rms_norm_backward(const RmsNormShape& shape, const void* grad_y, const void* x, const void* w,
                      const RmsNormGradients& gradients, void* workspace, CUstream_st* stream) {
  return kernels::with_type(shape.type, [&]<class T>(T) {
    auto* lines = static_cast<Accumulate<T>*>(workspace);
    const auto status =
        launch_backward<T>(shape, norm_of<T>(shape, x, w), static_cast<const T*>(grad_y),
                           static_cast<T*>(gradients.x), lines, stream);
    if (status != cudaSuccess) return status;
    const auto sum_into = [&]<class Out>(Out* w) {
      return kernels::column_sum<Out, T>(lines, backward_blocks<T>(shape),
                                         ColumnOrder<T>(shape.hidden).size(), shape.hidden, w,
                                         stream);
    };
    return gradients.keeps_w_wide ? sum_into(static_cast<Accumulate<T>*>(gradients.w))
                                  : sum_into(static_cast<T*>(gradients.w));
  });
}

}  // namespace outrider::cuda
