#include <algorithm>

#include "outrider/kernels/device_column_sums.cuh"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"
#include "residual_block_cuda.h"

// A thread keeps one pack of columns, with its bias in registers, and walks down the rows; a block
// is kWidth packs wide and kDepth rows deep. Sums over rows need no communication until the end.

namespace outrider::medusa::cuda {
namespace {

using kernels::Accumulate;
using kernels::ColumnOrder;
using kernels::load_pack;
using kernels::Pack;
using kernels::store_pack;

constexpr int kWidth = 32, kDepth = 8;
constexpr int64_t kForwardBands = 4096;
constexpr int64_t kBackwardBands = 64;  // also the lines of the workspace

template <class A>
__device__ A sigmoid(A x) {
  return A(1) / (A(1) + exp(-x));
}

template <class T>
struct Block {
  int64_t rows, hidden;
  const T *x, *z, *bias;

  __device__ int64_t first_column() const {
    return (static_cast<int64_t>(blockIdx.x) * kWidth + threadIdx.x) * Pack<T>::kSize;
  }
};

// Calls body(offset of the row) for the rows that are this thread's.
template <class Body>
__device__ void for_each_row(int64_t rows, int64_t hidden, Body body) {
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kDepth + threadIdx.y;
  const int64_t stride = static_cast<int64_t>(gridDim.y) * kDepth;
  for (int64_t row = first; row < rows; row += stride) body(row * hidden);
}

template <class T>
__global__ void __launch_bounds__(kWidth* kDepth) forward_kernel(Block<T> in, T* y) {
  const int64_t column = in.first_column();
  const Pack<T> bias = load_pack(in.bias, column, in.hidden);
  for_each_row(in.rows, in.hidden, [&](int64_t row) {
    Pack<T> x = load_pack(in.x + row, column, in.hidden);
    const Pack<T> z = load_pack(in.z + row, column, in.hidden);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      const auto pre = z.x[i] + bias.x[i];
      x.x[i] += pre * sigmoid(pre);
    }
    store_pack(y + row, column, in.hidden, x);
  });
}

// silu'(x)
template <class A>
__device__ A silu_slope(A x) {
  const A s = sigmoid(x);
  return s * (A(1) + x * (A(1) - s));
}

// The block's sum over its depth, written to its band's line.
template <class T>
__device__ void write_line(const Pack<T>& sum, int64_t hidden, Accumulate<T>* line) {
  __shared__ Accumulate<T> depth_sums[kDepth][Pack<T>::kSize][kWidth];
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) depth_sums[threadIdx.y][i][threadIdx.x] = sum.x[i];
  __syncthreads();
  const ColumnOrder<T> order(hidden);
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * kWidth + threadIdx.x;
  if (pack >= order.packs) return;
  for (int i = threadIdx.y; i < Pack<T>::kSize; i += kDepth) {
    Accumulate<T> total = 0;
    for (int depth = 0; depth < kDepth; ++depth) total += depth_sums[depth][i][threadIdx.x];
    line[i * order.packs + pack] = total;
  }
}

template <class T>
__global__ void __launch_bounds__(kWidth* kDepth)
    backward_kernel(Block<T> in, const T* grad_y, T* grad_z, Accumulate<T>* lines) {
  const int64_t column = in.first_column();
  const Pack<T> bias = load_pack(in.bias, column, in.hidden);
  Pack<T> sum = {};
  for_each_row(in.rows, in.hidden, [&](int64_t row) {
    Pack<T> grad = load_pack(grad_y + row, column, in.hidden);
    const Pack<T> z = load_pack(in.z + row, column, in.hidden);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      grad.x[i] *= silu_slope(z.x[i] + bias.x[i]);
      sum.x[i] += grad.x[i];
    }
    store_pack(grad_z + row, column, in.hidden, grad);
  });
  write_line(sum, in.hidden, lines + blockIdx.y * ColumnOrder<T>(in.hidden).size());
}

template <class T>
Block<T> block_of(const ResidualBlockShape& shape, const ResidualBlockInputs& in) {
  return {shape.rows, shape.hidden, static_cast<const T*>(in.x), static_cast<const T*>(in.z),
          static_cast<const T*>(in.bias)};
}

int64_t bands(const ResidualBlockShape& shape, int64_t limit) {
  return std::min((shape.rows + kDepth - 1) / kDepth, limit);
}

template <class T>
dim3 grid_of(const ResidualBlockShape& shape, int64_t band_limit) {
  const int64_t blocks = (ColumnOrder<T>(shape.hidden).packs + kWidth - 1) / kWidth;
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(bands(shape, band_limit)));
}

bool is_empty(const ResidualBlockShape& shape) { return shape.rows == 0 || shape.hidden == 0; }

}  // namespace

int forward(const ResidualBlockShape& shape, const ResidualBlockInputs& in, void* y,
            CUstream_st* stream) {
  if (is_empty(shape)) return cudaSuccess;
  return kernels::with_type(shape.type, [&]<class T>(T) {
    return kernels::launch(forward_kernel<T>, grid_of<T>(shape, kForwardBands),
                           dim3(kWidth, kDepth), 0, stream, block_of<T>(shape, in),
                           static_cast<T*>(y));
  });
}

size_t backward_workspace_bytes(const ResidualBlockShape& shape) {
  return kernels::with_type(shape.type, [&]<class T>(T) {
    const int64_t elements = bands(shape, kBackwardBands) * ColumnOrder<T>(shape.hidden).size();
    return static_cast<size_t>(elements) * sizeof(Accumulate<T>);
  });
}

int backward(const ResidualBlockShape& shape, const ResidualBlockInputs& in, const void* grad_y,
             const ResidualBlockGradients& gradients, void* workspace, CUstream_st* stream) {
  return kernels::with_type(shape.type, [&]<class T>(T) {
    auto* lines = static_cast<Accumulate<T>*>(workspace);
    auto status = cudaSuccess;
    if (!is_empty(shape)) {
      status = kernels::launch(backward_kernel<T>, grid_of<T>(shape, kBackwardBands),
                               dim3(kWidth, kDepth), 0, stream, block_of<T>(shape, in),
                               static_cast<const T*>(grad_y), static_cast<T*>(gradients.z), lines);
    }
    if (status != cudaSuccess) return status;
    return kernels::column_sum(lines, bands(shape, kBackwardBands),
                               ColumnOrder<T>(shape.hidden).size(), shape.hidden,
                               static_cast<T*>(gradients.bias), stream);
  });
}

}  // namespace outrider::medusa::cuda
