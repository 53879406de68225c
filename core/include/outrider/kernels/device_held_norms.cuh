#pragma once

// Root-mean-square norms of rows of whole packs that a block or a warp holds in registers; those of
// other rows are in device_rms_norm.cuh. Device code: include from .cu files only.

#include "outrider/kernels/device_held_rows.cuh"
#include "outrider/kernels/device_rms_norm.cuh"

namespace outrider::kernels {

/// y = rms(x, w) of a held row, given the root.
template <class T>
__device__ void store_normalized(HeldRow<T>& held, Accumulate<T> root, const T* w, T* y,
                                 int64_t hidden) {
  held.for_each([&](const auto& x, int64_t begin) {
    const auto weight = Packs<true>::load(w, begin, hidden);
    Packs<true>::store(y, begin, hidden, normalized<T>(x, root, weight));
  });
}

template <class T>
__device__ Accumulate<T> own_sum_of_squares(HeldRow<T>& held) {
  Accumulate<T> sum = 0;
  held.for_each([&](const auto& x, int64_t) { sum += sum_of_squares<T>(x); });
  return sum;
}

/// norm_row() by a block with threads_that_hold().
template <class T>
__device__ void norm_held_row(RmsShape<T> shape, const T* x, const T* w, T* y,
                              RowSums<Accumulate<T>>* scratch) {
  HeldRow<T> held(x, shape.hidden);
  RowSums<Accumulate<T>> sums;
  sums.first = own_sum_of_squares(held);
  store_normalized(held, shape.root_of(sum_of_block(sums, scratch).first), w, y, shape.hidden);
}

/// norm_row() by the warp of one threadIdx.y, where warp_holds(): no barrier.
template <class T>
__device__ void norm_row_of_warp(RmsShape<T> shape, const T* x, const T* w, T* y) {
  HeldRow<T> held(x, shape.hidden);
  auto sum = own_sum_of_squares(held);
  for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  store_normalized(held, shape.root_of(sum), w, y, shape.hidden);
}

/// Kernels that norm rows: a warp each, a block that holds it, a block that reads it again.
template <class Kernel>
struct NormKernels {
  Kernel of_warp, held, plain;
};

/// Launches the one for rows of this width; blockIdx.y is one of `parts` of a row's work.
template <class T, class Kernel, class... Arguments>
cudaError_t launch_norms(const NormKernels<Kernel>& kernels, bool are_whole, int64_t rows,
                         int64_t hidden, unsigned parts, int most_threads, cudaStream_t stream,
                         const Arguments&... arguments) {
  if (are_whole && warp_holds<T>(hidden)) {
    constexpr int64_t kRows = 8;
    return launch(kernels.of_warp, dim3(grid_size((rows + kRows - 1) / kRows), parts),
                  dim3(32, kRows), 0, stream, arguments...);
  }
  const auto holding = are_whole ? threads_that_hold<T>(hidden, most_threads) : std::nullopt;
  return launch(holding ? kernels.held : kernels.plain, dim3(grid_size(rows), parts),
                dim3(holding.value_or(row_threads<T>(hidden, most_threads))), 0, stream,
                arguments...);
}

/// norm_row_backward() of all rows of a block, every gridDim.x-th of `count`, the next of which is
/// on its way while one is summed. rows.x(i), rows.grad(i) and rows.grad_x(i), which may be null,
/// are row i's; `line` becomes the sum of the gradients of w.
template <int kPacks, class T, class Rows>
__device__ void norm_rows_backward(RmsShape<T> shape, int64_t count, const T* w, const Rows& rows,
                                   ColumnOrder<T> order, Accumulate<T>* line,
                                   RowSums<Accumulate<T>>* scratch) {
  using Held = HeldBits<T, kPacks>;
  const int64_t hidden = shape.hidden;
  Pack<T> of_w[kPacks] = {};
  Held weight, x, grad;
  const auto load = [&](int64_t row, Held& to_x, Held& to_grad) {
    if (row >= count) return;
    to_x.load(rows.x(row), hidden);
    to_grad.load(rows.grad(row), hidden);
  };
  weight.load(w, hidden);
  load(blockIdx.x, x, grad);
  for (int64_t row = blockIdx.x; row < count; row += gridDim.x) {
    Held next_x, next_grad;
    load(row + gridDim.x, next_x, next_grad);
    RowSums<Accumulate<T>> sums;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      add_norm_sums<T>(x.pack(i), weight.pack(i), grad.pack(i), sums);
    }
    sums = sum_of_block(sums, scratch);
    const auto root = shape.root_of(sums.first);
    const auto correction = shape.correction_of(root, sums.second);
    T* grad_x = rows.grad_x(row);
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const auto own = weight_gradient<T>(x.pack(i), grad.pack(i), root);
#pragma unroll
      for (int j = 0; j < Pack<T>::kSize; ++j) of_w[i].x[j] += own.x[j];
      if (grad_x == nullptr) continue;
      Packs<true>::store(
          grad_x, Held::begin(i), hidden,
          norm_gradient<T>(x.pack(i), weight.pack(i), grad.pack(i), root, correction));
    }
    x = next_x;
    grad = next_grad;
  }
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
#pragma unroll
    for (int j = 0; j < Pack<T>::kSize; ++j) {
      const int64_t column = Held::begin(i) + j;
      if (column < hidden) line[order.place(column)] = of_w[i].x[j];
    }
  }
}

/// Packs that each thread of row_threads() holds for norm_rows_backward(), 1 or 2; 0: too many.
template <class T>
int packs_for_backward(int64_t hidden, int most_threads) {
  const int64_t at_once = int64_t{row_threads<T>(hidden, most_threads)} * Pack<T>::kSize;
  const int64_t packs = (hidden + at_once - 1) / at_once;
  return packs <= 2 ? static_cast<int>(packs) : 0;
}

}  // namespace outrider::kernels
