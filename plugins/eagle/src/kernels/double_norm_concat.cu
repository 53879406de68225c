#include <algorithm>

#include "double_norm_concat_cuda.h"
#include "outrider/kernels/device_held_norms.cuh"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"
#include "outrider/kernels/device_rms_norm.cuh"
#include "outrider/kernels/device_whole_packs.cuh"

// Forward: a block, or a warp, normalises one half of one output row. Backward: a block goes over
// some rows. Rows of whole packs are held in registers; of others, and of those that are normed
// twice, a block keeps its share of the weights' gradients in shared memory, or in its line of the
// workspace where that is too small, and reads rows again for every sum: a row stays in the cache.

namespace outrider::eagle::cuda {
namespace {

using kernels::Accumulate;
using kernels::add_norm_sums;
using kernels::BlockLines;
using kernels::ColumnOrder;
using kernels::for_each_pack;
using kernels::load_pack;
using kernels::norm_gradient;
using kernels::norm_row;
using kernels::norm_row_backward;
using kernels::normalized;
using kernels::Pack;
using kernels::RmsShape;
using kernels::row_sums;
using kernels::RowSums;
using kernels::store_pack;
using kernels::sum_of_squares;
using kernels::weight_gradient;

constexpr int kThreads = 512;
constexpr size_t kSharedLimit = 96 * 1024;  // two blocks still fit

template <class T>
__device__ const T* row_of(const RowParts& parts, int64_t row, int64_t hidden) {
  return static_cast<const T*>(parts.data) + row / parts.length * parts.stride +
         row % parts.length * hidden;
}

template <class T>
struct Problem {
  RmsShape<T> norm;
  int64_t rows;
  bool twice;
  RowParts e_rows, g_rows;
  const T *w_e, *w_h;

  __device__ const T* e(int64_t row) const { return row_of<T>(e_rows, row, norm.hidden); }
  __device__ const T* g(int64_t row) const { return row_of<T>(g_rows, row, norm.hidden); }
};

// A pack of rms(g, w_e), given the row's first scale.
template <class T>
__device__ Pack<T> inner_norm(const Problem<T>& p, const T* g, int64_t begin, Accumulate<T> scale) {
  return normalized<T>(load_pack(g, begin, p.norm.hidden), scale,
                       load_pack(p.w_e, begin, p.norm.hidden));
}

// Both norms of a row of g: out = rms(rms(g, w_e), w_h).
template <class T>
__device__ void norm_row_twice(const Problem<T>& p, const T* g, T* out,
                               RowSums<Accumulate<T>>* scratch) {
  const auto outer = row_sums(g, p.norm.hidden, scratch, [&](int64_t begin, auto& s) {
    s.first += sum_of_squares<T>(load_pack(g, begin, p.norm.hidden));
  });
  const auto first = p.norm.root_of(outer.first);
  const auto inner = row_sums(g, p.norm.hidden, scratch, [&](int64_t begin, auto& s) {
    s.first += sum_of_squares<T>(inner_norm(p, g, begin, first));
  });
  const auto second = p.norm.root_of(inner.first);
  for_each_pack(g, p.norm.hidden, [&](int64_t begin) {
    const auto y = normalized<T>(inner_norm(p, g, begin, first), second,
                                 load_pack(p.w_h, begin, p.norm.hidden));
    store_pack(out, begin, p.norm.hidden, y);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(Problem<T> p, T* out) {
  __shared__ kernels::ReduceScratch<RowSums<Accumulate<T>>> shared;
  auto* scratch = shared.as();
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    T* left = out + 2 * row * p.norm.hidden;
    if (blockIdx.y == 0) {
      norm_row(p.norm, p.e(row), p.w_e, left, scratch);
    } else if (p.twice) {
      norm_row_twice(p, p.g(row), left + p.norm.hidden, scratch);
    } else {
      norm_row(p.norm, p.g(row), p.w_h, left + p.norm.hidden, scratch);
    }
  }
}

// One half of rows of whole packs, normed once.
template <class T>
struct Half {
  bool is_g;
  RowParts rows;
  const T* w;
  int64_t hidden;

  __device__ explicit Half(const Problem<T>& p)
      : is_g(blockIdx.y == 1),
        rows(is_g ? p.g_rows : p.e_rows),
        w(is_g ? p.w_h : p.w_e),
        hidden(p.norm.hidden) {}
  __device__ const T* in(int64_t row) const { return row_of<T>(rows, row, hidden); }
  __device__ int64_t place_in_output(int64_t row) const { return (2 * row + is_g) * hidden; }
};

template <class T>
__global__ void __launch_bounds__(kThreads) held_forward_kernel(Problem<T> p, T* out) {
  __shared__ kernels::ReduceScratch<RowSums<Accumulate<T>>> scratch;
  const Half<T> half(p);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    kernels::norm_held_row(p.norm, half.in(row), half.w, out + half.place_in_output(row),
                           scratch.as());
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) narrow_forward_kernel(Problem<T> p, T* out) {
  const Half<T> half(p);
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= p.rows) return;
  kernels::norm_row_of_warp(p.norm, half.in(row), half.w, out + half.place_in_output(row));
}

template <class T>
struct BackwardPointers {
  const T* grad_out;
  T *grad_e, *grad_g;        // grad_e may be null
  Accumulate<T>* workspace;  // per block a line for w_e and one for w_h
};

// Backward of norm_row_twice: the outer norm's input gradient is the inner one's output gradient.
template <class T>
__device__ void norm_row_twice_backward(const Problem<T>& p, const T* g, const T* grad, T* grad_g,
                                        const BlockLines<T, 2>& lines,
                                        RowSums<Accumulate<T>>* scratch) {
  const int64_t h = p.norm.hidden;
  const auto g_sums = row_sums(g, h, scratch, [&](int64_t begin, auto& s) {
    s.first += sum_of_squares<T>(load_pack(g, begin, h));
  });
  const auto first = p.norm.root_of(g_sums.first);
  const auto outer_sums = row_sums(g, h, scratch, [&](int64_t begin, auto& s) {
    add_norm_sums<T>(inner_norm(p, g, begin, first), load_pack(p.w_h, begin, h),
                     load_pack(grad, begin, h), s);
  });
  const auto second = p.norm.root_of(outer_sums.first);
  const auto outer_correction = p.norm.correction_of(second, outer_sums.second);
  const auto inner_gradient = [&](int64_t begin) {
    return norm_gradient<T>(inner_norm(p, g, begin, first), load_pack(p.w_h, begin, h),
                            load_pack(grad, begin, h), second, outer_correction);
  };
  const auto inner_sums = row_sums(g, h, scratch, [&](int64_t begin, auto& s) {
    add_norm_sums<T>(load_pack(g, begin, h), load_pack(p.w_e, begin, h), inner_gradient(begin), s);
  });
  const auto inner_correction = p.norm.correction_of(first, inner_sums.second);
  for_each_pack(g, h, [&](int64_t begin) {
    const auto inner = inner_norm(p, g, begin, first), grad_pack = load_pack(grad, begin, h);
    add_to_line(lines.line(1), lines.order(), begin, h,
                weight_gradient<T>(inner, grad_pack, second));
  });
  for_each_pack(g, h, [&](int64_t begin) {
    const auto g_pack = load_pack(g, begin, h), inner = inner_gradient(begin);
    add_to_line(lines.line(0), lines.order(), begin, h, weight_gradient<T>(g_pack, inner, first));
    store_pack(
        grad_g, begin, h,
        norm_gradient<T>(g_pack, load_pack(p.w_e, begin, h), inner, first, inner_correction));
  });
}

template <class T>
struct HalfBackward {
  Half<T> half;
  const T* grad_out;
  T* all_grad_x;

  __device__ const T* x(int64_t row) const { return half.in(row); }
  __device__ const T* grad(int64_t row) const { return grad_out + half.place_in_output(row); }
  __device__ T* grad_x(int64_t row) const {
    return all_grad_x ? all_grad_x + row * half.hidden : nullptr;
  }
};

template <int kPacks, class T>
__global__ void __launch_bounds__(kThreads, kPacks == 1 ? 2 : 1)
    held_backward_kernel(Problem<T> p, BackwardPointers<T> b) {
  __shared__ kernels::ReduceScratch<RowSums<Accumulate<T>>> scratch;
  const Half<T> half(p);
  const HalfBackward<T> rows{half, b.grad_out, half.is_g ? b.grad_g : b.grad_e};
  const ColumnOrder<T> order(half.hidden);
  auto* line = b.workspace + (2 * blockIdx.x + half.is_g) * order.size();
  kernels::norm_rows_backward<kPacks>(p.norm, p.rows, half.w, rows, order, line, scratch.as());
}

template <class T, bool kTwice>
__device__ void row_backward(const Problem<T>& p, const BackwardPointers<T>& b, int64_t row,
                             const BlockLines<T, 2>& lines, RowSums<Accumulate<T>>* scratch) {
  const int64_t offset = row * p.norm.hidden;
  const T* left = b.grad_out + 2 * offset;
  norm_row_backward(p.norm, p.e(row), p.w_e, left, b.grad_e ? b.grad_e + offset : nullptr,
                    lines.order(), lines.line(0), scratch);
  if constexpr (kTwice) {
    norm_row_twice_backward(p, p.g(row), left + p.norm.hidden, b.grad_g + offset, lines, scratch);
  } else {
    norm_row_backward(p.norm, p.g(row), p.w_h, left + p.norm.hidden, b.grad_g + offset,
                      lines.order(), lines.line(1), scratch);
  }
}

template <class T, bool kTwice>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kernel(Problem<T> p, BackwardPointers<T> b, bool sums_in_shared_memory) {
  __shared__ kernels::ReduceScratch<RowSums<Accumulate<T>>> scratch;
  extern __shared__ uint4 dynamic_shared[];
  auto* shared = reinterpret_cast<Accumulate<T>*>(dynamic_shared);
  const BlockLines<T, 2> lines(p.norm.hidden, b.workspace,
                               sums_in_shared_memory ? shared : nullptr);
  // A column changes hands between rows of different alignment: every row begins with a barrier.
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    row_backward<T, kTwice>(p, b, row, lines, scratch.as());
  }
  lines.finish();
}

template <class T>
Problem<T> problem_of(const DoubleNormShape& shape, const DoubleNormInputs& in) {
  return {{shape.hidden, static_cast<Accumulate<T>>(shape.eps)},
          shape.rows,
          shape.twice,
          in.e,
          in.g,
          static_cast<const T*>(in.w_e),
          static_cast<const T*>(in.w_h)};
}

// Whether all rows are whole packs: the inputs' and those of `others`.
template <class T, class... Pointers>
bool are_whole(const DoubleNormShape& shape, const DoubleNormInputs& in,
               const Pointers*... others) {
  const auto *e = static_cast<const T*>(in.e.data), *g = static_cast<const T*>(in.g.data);
  const auto *w_e = static_cast<const T*>(in.w_e), *w_h = static_cast<const T*>(in.w_h);
  return kernels::are_whole_packs<T>({shape.hidden, in.e.stride, in.g.stride}, e, g, w_e, w_h,
                                     others...);
}

template <class T>
int64_t backward_blocks(const DoubleNormShape& shape) {
  return kernels::line_blocks<T>(shape.rows, shape.hidden, kThreads);
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
  const auto problem = problem_of<T>(shape, in);
  const dim3 block(kernels::row_threads<T>(shape.hidden, kThreads));
  const auto blocks = static_cast<unsigned>(backward_blocks<T>(shape));
  const bool whole =
      !shape.twice && are_whole<T>(shape, in, pointers.grad_out, pointers.grad_e, pointers.grad_g);
  const int packs = whole ? kernels::packs_for_backward<T>(shape.hidden, kThreads) : 0;
  if (packs > 0) {
    return kernels::launch(packs == 1 ? held_backward_kernel<1, T> : held_backward_kernel<2, T>,
                           dim3(blocks, 2), block, 0, stream, problem, pointers);
  }
  const auto kernel = shape.twice ? backward_kernel<T, true> : backward_kernel<T, false>;
  const size_t bytes = line_bytes<T>(shape);
  const bool fits = bytes <= kSharedLimit;
  if (fits) {
    const auto status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             static_cast<int>(kSharedLimit));
    if (status != cudaSuccess) return status;
  }
  return kernels::launch(kernel, dim3(blocks), block, fits ? bytes : 0, stream, problem, pointers,
                         fits);
}

template <class T>
cudaError_t sum_weight_gradients(const DoubleNormShape& shape, const Accumulate<T>* workspace,
                                 const DoubleNormGradients& gradients, cudaStream_t stream) {
  const int64_t line = ColumnOrder<T>(shape.hidden).size(), blocks = backward_blocks<T>(shape);
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
    const auto problem = problem_of<T>(shape, in);
    const bool whole = !shape.twice && are_whole<T>(shape, in, static_cast<T*>(out));
    const kernels::NormKernels<void (*)(Problem<T>, T*)> all{
        narrow_forward_kernel<T>, held_forward_kernel<T>, forward_kernel<T>};
    return kernels::launch_norms<T>(all, whole, shape.rows, shape.hidden, 2, kThreads, stream,
                                    problem, static_cast<T*>(out));
  });
}

size_t backward_workspace_bytes(const DoubleNormShape& shape) {
  return kernels::with_type(shape.type, [&]<class T>(T) {
    return static_cast<size_t>(backward_blocks<T>(shape)) * line_bytes<T>(shape);
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
