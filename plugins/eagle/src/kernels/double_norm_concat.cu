#include <algorithm>

#include "double_norm_concat_cuda.h"
#include "outrider/kernels/device_column_sums.cuh"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"
#include "outrider/kernels/device_reduce.cuh"

// Forward: a block normalises one half of one output row. Backward: a block goes over some rows and
// keeps its share of the weights' gradients in shared memory, or in its line of the workspace where
// that is too small. Rows are read again for every sum: a row stays in the cache.

namespace outrider::eagle::cuda {
namespace {

using kernels::Accumulate;
using kernels::ColumnOrder;
using kernels::for_each_pack;
using kernels::load_pack;
using kernels::Pack;
using kernels::rounded;
using kernels::store_pack;

constexpr int kThreads = 512;
constexpr int64_t kBackwardBlocks = 264;    // two for each multiprocessor of an H100
constexpr size_t kSharedLimit = 96 * 1024;  // two blocks still fit

__device__ float reciprocal_root(float x) { return rsqrtf(x); }
__device__ double reciprocal_root(double x) { return rsqrt(x); }

// Two sums over a row at once.
template <class A>
struct Sums {
  A first = 0, second = 0;
};

// Sums body(begin) over the packs of a row; the result is in every thread. Also a barrier.
template <class T, class Body>
__device__ Sums<Accumulate<T>> row_sums(const T* row, int64_t hidden, Sums<Accumulate<T>>* scratch,
                                        Body body) {
  using S = Sums<Accumulate<T>>;
  S sums;
  for_each_pack(row, hidden, [&](int64_t begin) { body(begin, sums); });
  return kernels::block_reduce(sums, scratch, [](const S& a, const S& b) {
    return S{a.first + b.first, a.second + b.second};
  });
}

template <class T>
struct Problem {
  using A = Accumulate<T>;
  int64_t rows, hidden;
  A eps;
  bool twice;
  const T *e, *g, *w_e, *w_h;

  __device__ A root_of(A sum_of_squares) const {
    return reciprocal_root(sum_of_squares / static_cast<A>(hidden) + eps);
  }
};

// w · cast(x · scale), rounded like a tensor of type T.
template <class T>
__device__ Pack<T> normalized(const Pack<T>& x, Accumulate<T> scale, const Pack<T>& w) {
  Pack<T> y;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    y.x[i] = rounded<T>(w.x[i] * rounded<T>(x.x[i] * scale));
  }
  return y;
}

template <class T>
__device__ Accumulate<T> sum_of_squares(const Pack<T>& x) {
  Accumulate<T> sum = 0;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) sum += x.x[i] * x.x[i];
  return sum;
}

// One norm of a row: out = rms(x, w).
template <class T>
__device__ void norm_row(const Problem<T>& p, const T* x, const T* w, T* out,
                         Sums<Accumulate<T>>* scratch) {
  const auto sums = row_sums(x, p.hidden, scratch, [&](int64_t begin, auto& s) {
    s.first += sum_of_squares<T>(load_pack(x, begin, p.hidden));
  });
  const auto scale = p.root_of(sums.first);
  for_each_pack(x, p.hidden, [&](int64_t begin) {
    const auto y =
        normalized<T>(load_pack(x, begin, p.hidden), scale, load_pack(w, begin, p.hidden));
    store_pack(out, begin, p.hidden, y);
  });
}

// A pack of rms(g, w_e), given the row's first scale.
template <class T>
__device__ Pack<T> inner_norm(const Problem<T>& p, const T* g, int64_t begin, Accumulate<T> scale) {
  return normalized<T>(load_pack(g, begin, p.hidden), scale, load_pack(p.w_e, begin, p.hidden));
}

// Both norms of a row of g: out = rms(rms(g, w_e), w_h).
template <class T>
__device__ void norm_row_twice(const Problem<T>& p, const T* g, T* out,
                               Sums<Accumulate<T>>* scratch) {
  const auto outer = row_sums(g, p.hidden, scratch, [&](int64_t begin, auto& s) {
    s.first += sum_of_squares<T>(load_pack(g, begin, p.hidden));
  });
  const auto first = p.root_of(outer.first);
  const auto inner = row_sums(g, p.hidden, scratch, [&](int64_t begin, auto& s) {
    s.first += sum_of_squares<T>(inner_norm(p, g, begin, first));
  });
  const auto second = p.root_of(inner.first);
  for_each_pack(g, p.hidden, [&](int64_t begin) {
    const auto y =
        normalized<T>(inner_norm(p, g, begin, first), second, load_pack(p.w_h, begin, p.hidden));
    store_pack(out, begin, p.hidden, y);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(Problem<T> p, T* out) {
  __shared__ kernels::ReduceScratch<Sums<Accumulate<T>>> shared;
  auto* scratch = shared.as();
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    T* left = out + 2 * row * p.hidden;
    if (blockIdx.y == 0) {
      norm_row(p, p.e + row * p.hidden, p.w_e, left, scratch);
    } else if (p.twice) {
      norm_row_twice(p, p.g + row * p.hidden, left + p.hidden, scratch);
    } else {
      norm_row(p, p.g + row * p.hidden, p.w_h, left + p.hidden, scratch);
    }
  }
}

template <class T>
struct BackwardPointers {
  const T* grad_out;
  T *grad_e, *grad_g;        // grad_e may be null
  Accumulate<T>* workspace;  // per block a line for w_e and one for w_h
};

// A block's sums for the gradients of w_e and w_h.
template <class T>
struct WeightSums {
  ColumnOrder<T> order;
  Accumulate<T>*w_e, *w_h;
};

// Gradient of y = w · x · scale with respect to x, where the scale depends on x:
//   scale · (w · dy - x · correction),  correction = scale² · mean(x · w · dy).
template <class T>
__device__ Pack<T> norm_gradient(const Pack<T>& x, const Pack<T>& w, const Pack<T>& grad,
                                 Accumulate<T> scale, Accumulate<T> correction) {
  Pack<T> result;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    result.x[i] = scale * (w.x[i] * grad.x[i] - x.x[i] * correction);
  }
  return result;
}

// Gradient of w: dy · cast(x · scale).
template <class T>
__device__ Pack<T> weight_gradient(const Pack<T>& x, const Pack<T>& grad, Accumulate<T> scale) {
  Pack<T> result;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    result.x[i] = grad.x[i] * rounded<T>(x.x[i] * scale);
  }
  return result;
}

// Adds Σ x² and Σ x · w · dy.
template <class T>
__device__ void add_norm_sums(const Pack<T>& x, const Pack<T>& w, const Pack<T>& grad,
                              Sums<Accumulate<T>>& sums) {
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    sums.first += x.x[i] * x.x[i];
    sums.second += x.x[i] * w.x[i] * grad.x[i];
  }
}

template <class T>
__device__ Accumulate<T> correction_of(const Problem<T>& p, Accumulate<T> scale,
                                       Accumulate<T> weighted_sum) {
  return scale * scale * weighted_sum / static_cast<Accumulate<T>>(p.hidden);
}

// Backward of norm_row; `line` receives the gradient of w.
template <class T>
__device__ void norm_row_backward(const Problem<T>& p, const T* x, const T* w, const T* grad,
                                  T* grad_x, ColumnOrder<T> order, Accumulate<T>* line,
                                  Sums<Accumulate<T>>* scratch) {
  const int64_t h = p.hidden;
  const auto sums = row_sums(x, h, scratch, [&](int64_t begin, auto& s) {
    add_norm_sums<T>(load_pack(x, begin, h), load_pack(w, begin, h), load_pack(grad, begin, h), s);
  });
  const auto scale = p.root_of(sums.first);
  const auto correction = correction_of(p, scale, sums.second);
  for_each_pack(x, h, [&](int64_t begin) {
    const auto x_pack = load_pack(x, begin, h), grad_pack = load_pack(grad, begin, h);
    add_to_line(line, order, begin, h, weight_gradient<T>(x_pack, grad_pack, scale));
    if (grad_x == nullptr) return;
    const auto w_pack = load_pack(w, begin, h);
    store_pack(grad_x, begin, h, norm_gradient<T>(x_pack, w_pack, grad_pack, scale, correction));
  });
}

// Backward of norm_row_twice: the outer norm's input gradient is the inner one's output gradient.
template <class T>
__device__ void norm_row_twice_backward(const Problem<T>& p, const T* g, const T* grad, T* grad_g,
                                        const WeightSums<T>& weights,
                                        Sums<Accumulate<T>>* scratch) {
  const int64_t h = p.hidden;
  const auto g_sums = row_sums(g, h, scratch, [&](int64_t begin, auto& s) {
    s.first += sum_of_squares<T>(load_pack(g, begin, h));
  });
  const auto first = p.root_of(g_sums.first);
  const auto outer_sums = row_sums(g, h, scratch, [&](int64_t begin, auto& s) {
    add_norm_sums<T>(inner_norm(p, g, begin, first), load_pack(p.w_h, begin, h),
                     load_pack(grad, begin, h), s);
  });
  const auto second = p.root_of(outer_sums.first);
  const auto outer_correction = correction_of(p, second, outer_sums.second);
  const auto inner_gradient = [&](int64_t begin) {
    return norm_gradient<T>(inner_norm(p, g, begin, first), load_pack(p.w_h, begin, h),
                            load_pack(grad, begin, h), second, outer_correction);
  };
  const auto inner_sums = row_sums(g, h, scratch, [&](int64_t begin, auto& s) {
    add_norm_sums<T>(load_pack(g, begin, h), load_pack(p.w_e, begin, h), inner_gradient(begin), s);
  });
  const auto inner_correction = correction_of(p, first, inner_sums.second);
  for_each_pack(g, h, [&](int64_t begin) {
    const auto inner = inner_norm(p, g, begin, first), grad_pack = load_pack(grad, begin, h);
    add_to_line(weights.w_h, weights.order, begin, h, weight_gradient<T>(inner, grad_pack, second));
  });
  for_each_pack(g, h, [&](int64_t begin) {
    const auto g_pack = load_pack(g, begin, h), inner = inner_gradient(begin);
    add_to_line(weights.w_e, weights.order, begin, h, weight_gradient<T>(g_pack, inner, first));
    store_pack(
        grad_g, begin, h,
        norm_gradient<T>(g_pack, load_pack(p.w_e, begin, h), inner, first, inner_correction));
  });
}

template <class T, bool kTwice>
__device__ void row_backward(const Problem<T>& p, const BackwardPointers<T>& b, int64_t row,
                             const WeightSums<T>& weights, Sums<Accumulate<T>>* scratch) {
  const int64_t offset = row * p.hidden;
  const T* left = b.grad_out + 2 * offset;
  norm_row_backward(p, p.e + offset, p.w_e, left, b.grad_e ? b.grad_e + offset : nullptr,
                    weights.order, weights.w_e, scratch);
  if constexpr (kTwice) {
    norm_row_twice_backward(p, p.g + offset, left + p.hidden, b.grad_g + offset, weights, scratch);
  } else {
    norm_row_backward(p, p.g + offset, p.w_h, left + p.hidden, b.grad_g + offset, weights.order,
                      weights.w_h, scratch);
  }
}

template <class T, bool kTwice>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kernel(Problem<T> p, BackwardPointers<T> b, bool sums_in_shared_memory) {
  using A = Accumulate<T>;
  __shared__ kernels::ReduceScratch<Sums<A>> scratch;
  extern __shared__ uint4 dynamic_shared[];
  const ColumnOrder<T> order(p.hidden);
  A* line = b.workspace + blockIdx.x * 2 * order.size();
  A* sums = sums_in_shared_memory ? reinterpret_cast<A*>(dynamic_shared) : line;
  const WeightSums<T> weights = {order, sums, sums + order.size()};
  for (int64_t i = threadIdx.x; i < 2 * order.size(); i += blockDim.x) sums[i] = 0;
  // A column changes hands between rows of different alignment: every row begins with a barrier.
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    row_backward<T, kTwice>(p, b, row, weights, scratch.as());
  }
  if (!sums_in_shared_memory) return;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < 2 * order.size(); i += blockDim.x) line[i] = sums[i];
}

template <class T>
Problem<T> problem_of(const DoubleNormShape& shape, const DoubleNormInputs& in) {
  return {shape.rows,
          shape.hidden,
          static_cast<Accumulate<T>>(shape.eps),
          shape.twice,
          static_cast<const T*>(in.e),
          static_cast<const T*>(in.g),
          static_cast<const T*>(in.w_e),
          static_cast<const T*>(in.w_h)};
}

int64_t backward_blocks(const DoubleNormShape& shape) {
  return std::min(shape.rows, kBackwardBlocks);
}

// Bytes of one block's lines for w_e and w_h.
template <class T>
size_t line_bytes(const DoubleNormShape& shape) {
  return 2 * static_cast<size_t>(ColumnOrder<T>(shape.hidden).size()) * sizeof(Accumulate<T>);
}

template <class T>
cudaError_t launch_backward(const DoubleNormShape& shape, const DoubleNormInputs& in,
                            const BackwardPointers<T>& pointers, cudaStream_t stream) {
  if (shape.rows == 0) return cudaSuccess;
  const auto kernel = shape.twice ? backward_kernel<T, true> : backward_kernel<T, false>;
  const size_t bytes = line_bytes<T>(shape);
  const bool fits = bytes <= kSharedLimit;
  if (fits) {
    const auto status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             static_cast<int>(kSharedLimit));
    if (status != cudaSuccess) return status;
  }
  return kernels::launch(kernel, dim3(static_cast<unsigned>(backward_blocks(shape))),
                         dim3(kernels::row_threads<T>(shape.hidden, kThreads)), fits ? bytes : 0,
                         stream, problem_of<T>(shape, in), pointers, fits);
}

template <class T>
cudaError_t sum_weight_gradients(const DoubleNormShape& shape, const Accumulate<T>* workspace,
                                 const DoubleNormGradients& gradients, cudaStream_t stream) {
  const int64_t line = ColumnOrder<T>(shape.hidden).size(), blocks = backward_blocks(shape);
  const auto status = kernels::column_sum(workspace, blocks, 2 * line, shape.hidden,
                                          static_cast<T*>(gradients.w_e), stream);
  if (status != cudaSuccess) return status;
  return kernels::column_sum(workspace + line, blocks, 2 * line, shape.hidden,
                             static_cast<T*>(gradients.w_h), stream);
}

}  // namespace

int forward(const DoubleNormShape& shape, const DoubleNormInputs& in, void* out,
            CUstream_st* stream) {
  if (shape.rows == 0 || shape.hidden == 0) return cudaSuccess;
  return kernels::with_type(shape.type, [&]<class T>(T) {
    return kernels::launch(forward_kernel<T>, dim3(kernels::grid_size(shape.rows), 2),
                           dim3(kernels::row_threads<T>(shape.hidden, kThreads)), 0, stream,
                           problem_of<T>(shape, in), static_cast<T*>(out));
  });
}

size_t backward_workspace_bytes(const DoubleNormShape& shape) {
  return kernels::with_type(shape.type, [&]<class T>(T) {
    return static_cast<size_t>(backward_blocks(shape)) * line_bytes<T>(shape);
  });
}

int backward(const DoubleNormShape& shape, const DoubleNormInputs& in, const void* grad_out,
             const DoubleNormGradients& gradients, void* workspace, CUstream_st* stream) {
  return kernels::with_type(shape.type, [&]<class T>(T) {
    const BackwardPointers<T> pointers = {
        static_cast<const T*>(grad_out), static_cast<T*>(gradients.e), static_cast<T*>(gradients.g),
        static_cast<Accumulate<T>*>(workspace)};
    const auto status = launch_backward<T>(shape, in, pointers, stream);
    if (status != cudaSuccess) return status;
    return sum_weight_gradients<T>(shape, pointers.workspace, gradients, stream);
  });
}

}  // namespace outrider::eagle::cuda
