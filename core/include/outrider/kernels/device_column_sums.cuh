#pragma once

// Sums over rows for gradients of vectors, in two stages and a fixed order: every block sums some
// rows into a line of a workspace, then the lines are added up. Include from .cu files only.

#include <algorithm>

#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"

namespace outrider::kernels {

/// Order of columns in a line: the first elements of all packs, then the second ones, …:
/// neighbouring threads, which hold neighbouring packs, then touch neighbouring addresses.
template <class T>
struct ColumnOrder {
  int64_t packs;

  __host__ __device__ explicit ColumnOrder(int64_t columns)
      : packs((columns + Pack<T>::kSize - 1) / Pack<T>::kSize) {}
  __host__ __device__ int64_t size() const { return packs * Pack<T>::kSize; }
  __device__ int64_t place(int64_t column) const {
    return column % Pack<T>::kSize * packs + column / Pack<T>::kSize;
  }
  __device__ int64_t column(int64_t place) const {
    return place % packs * Pack<T>::kSize + place / packs;
  }
};

/// line[column] += value for the columns of a pack that exist.
template <class T>
__device__ void add_to_line(Accumulate<T>* line, ColumnOrder<T> order, int64_t begin,
                            int64_t columns, const Pack<T>& pack) {
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    const int64_t column = begin + i;
    if (column >= 0 && column < columns) line[order.place(column)] += pack.x[i];
  }
}

/// Blocks of row_threads() that go over some rows each, two of `most_threads` for each
/// multiprocessor of an H100: the more, the smaller they are, since a block waits for each of its
/// rows.
template <class T>
int64_t line_blocks(int64_t rows, int64_t hidden, int most_threads) {
  constexpr int64_t kBlocks = 264;
  return std::min(rows, kBlocks * (most_threads / row_threads<T>(hidden, most_threads)));
}

/// Lines of a block's sums for `kLines` weights' gradients, in shared memory where they fit, else
/// in the block's place of the workspace.
template <class T, int kLines>
class BlockLines {
 public:
  using A = Accumulate<T>;

  __device__ BlockLines(int64_t hidden, A* workspace, A* shared)
      : order_(hidden),
        own_(workspace + blockIdx.x * kLines * order_.size()),
        sums_(shared ? shared : own_) {
    for (int64_t i = threadIdx.x; i < size(); i += blockDim.x) sums_[i] = 0;
  }
  __device__ ColumnOrder<T> order() const { return order_; }
  __device__ A* line(int i) const { return sums_ + i * order_.size(); }
  /// Brings the sums to the workspace, once all rows are done.
  __device__ void finish() const {
    if (sums_ == own_) return;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < size(); i += blockDim.x) own_[i] = sums_[i];
  }

 private:
  __device__ int64_t size() const { return kLines * order_.size(); }

  ColumnOrder<T> order_;
  A *own_, *sums_;
};

inline constexpr int kSumWidth = 32, kSumDepth = 32;

template <class Out, class T>
__global__ void __launch_bounds__(kSumWidth* kSumDepth)
    column_sum_kernel(const Accumulate<T>* lines, int64_t count, int64_t line_stride,
                      int64_t columns, Out* out) {
  __shared__ Accumulate<T> partial[kSumDepth][kSumWidth];
  const ColumnOrder<T> order(columns);
  const int64_t place = static_cast<int64_t>(blockIdx.x) * kSumWidth + threadIdx.x;
  Accumulate<T> sum = 0;
  if (place < order.size()) {
    for (int64_t line = threadIdx.y; line < count; line += kSumDepth) {
      sum += lines[line * line_stride + place];
    }
  }
  partial[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || place >= order.size() || order.column(place) >= columns) return;
  for (int depth = 1; depth < kSumDepth; ++depth) sum += partial[depth][threadIdx.x];
  out[order.column(place)] = static_cast<Out>(sum);
}

/// out[c] = Σ over `count` lines of rows of T, which lie `line_stride` elements apart; zeros for no
/// lines.
template <class Out, class T = Out>
cudaError_t column_sum(const Accumulate<T>* lines, int64_t count, int64_t line_stride,
                       int64_t columns, Out* out, cudaStream_t stream) {
  const int64_t blocks = (ColumnOrder<T>(columns).size() + kSumWidth - 1) / kSumWidth;
  if (blocks == 0) return cudaSuccess;
  return launch(column_sum_kernel<Out, T>, dim3(static_cast<unsigned>(blocks)),
                dim3(kSumWidth, kSumDepth), 0, stream, lines, count, line_stride, columns, out);
}

}  // namespace outrider::kernels
