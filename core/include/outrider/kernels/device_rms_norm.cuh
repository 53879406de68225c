#pragma once

// Root-mean-square norms of rows, y = w · cast(x / √(mean(x²) + eps)), a block for a row. Rows are
// read again for every sum: a row stays in the cache. Whole packs that fit into registers go by
// device_held_norms.cuh. Device code: include from .cu files only.

#include "outrider/kernels/device_column_sums.cuh"
#include "outrider/kernels/device_packs.cuh"
#include "outrider/kernels/device_reduce.cuh"

namespace outrider::kernels {

__device__ inline float reciprocal_root(float x) { return rsqrtf(x); }
__device__ inline double reciprocal_root(double x) { return rsqrt(x); }

/// Two sums over a row at once.
template <class A>
struct RowSums {
  A first = 0, second = 0;
};

/// The sums over a block, in every thread. Also a barrier.
template <class A>
__device__ RowSums<A> sum_of_block(const RowSums<A>& sums, RowSums<A>* scratch) {
  return block_reduce(sums, scratch, [](const RowSums<A>& a, const RowSums<A>& b) {
    return RowSums<A>{a.first + b.first, a.second + b.second};
  });
}

/// Sums body(begin, sums) over the packs of a row; the result is in every thread. Also a barrier.
template <class T, class Body>
__device__ RowSums<Accumulate<T>> row_sums(const T* row, int64_t hidden,
                                           RowSums<Accumulate<T>>* scratch, Body body) {
  using S = RowSums<Accumulate<T>>;
  S sums;
  for_each_pack(row, hidden, [&](int64_t begin) { body(begin, sums); });
  return sum_of_block(sums, scratch);
}

/// What all rows of a norm share.
template <class T>
struct RmsShape {
  using A = Accumulate<T>;
  int64_t hidden;
  A eps;

  __device__ A root_of(A sum_of_squares) const {
    return reciprocal_root(sum_of_squares / static_cast<A>(hidden) + eps);
  }
  /// scale² · mean(x · w · dy)
  __device__ A correction_of(A scale, A weighted_sum) const {
    return scale * scale * weighted_sum / static_cast<A>(hidden);
  }
};

/// w · cast(x · scale), rounded like a tensor of type T.
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

/// One row: out = rms(x, w).
template <class T>
__device__ void norm_row(RmsShape<T> shape, const T* x, const T* w, T* out,
                         RowSums<Accumulate<T>>* scratch) {
  const int64_t h = shape.hidden;
  const auto sums = row_sums(x, h, scratch, [&](int64_t begin, auto& s) {
    s.first += sum_of_squares<T>(load_pack(x, begin, h));
  });
  const auto scale = shape.root_of(sums.first);
  for_each_pack(x, h, [&](int64_t begin) {
    store_pack(out, begin, h, normalized<T>(load_pack(x, begin, h), scale, load_pack(w, begin, h)));
  });
}

/// Gradient of y = w · x · scale with respect to x, where the scale depends on x:
///   scale · (w · dy - x · correction).
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

/// Gradient of w: dy · cast(x · scale).
template <class T>
__device__ Pack<T> weight_gradient(const Pack<T>& x, const Pack<T>& grad, Accumulate<T> scale) {
  Pack<T> result;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    result.x[i] = grad.x[i] * rounded<T>(x.x[i] * scale);
  }
  return result;
}

/// Adds Σ x² and Σ x · w · dy.
template <class T>
__device__ void add_norm_sums(const Pack<T>& x, const Pack<T>& w, const Pack<T>& grad,
                              RowSums<Accumulate<T>>& sums) {
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    sums.first += x.x[i] * x.x[i];
    sums.second += x.x[i] * w.x[i] * grad.x[i];
  }
}

/// Backward of norm_row; `line` receives the gradient of w, grad_x may be null.
template <class T>
__device__ void norm_row_backward(RmsShape<T> shape, const T* x, const T* w, const T* grad,
                                  T* grad_x, ColumnOrder<T> order, Accumulate<T>* line,
                                  RowSums<Accumulate<T>>* scratch) {
  const int64_t h = shape.hidden;
  const auto sums = row_sums(x, h, scratch, [&](int64_t begin, auto& s) {
    add_norm_sums<T>(load_pack(x, begin, h), load_pack(w, begin, h), load_pack(grad, begin, h), s);
  });
  const auto scale = shape.root_of(sums.first);
  const auto correction = shape.correction_of(scale, sums.second);
  for_each_pack(x, h, [&](int64_t begin) {
    const auto x_pack = load_pack(x, begin, h), grad_pack = load_pack(grad, begin, h);
    const auto w_pack = load_pack(w, begin, h);
    add_to_line(line, order, begin, h, weight_gradient<T>(x_pack, grad_pack, scale));
    if (grad_x == nullptr) return;
    store_pack(grad_x, begin, h, norm_gradient<T>(x_pack, w_pack, grad_pack, scale, correction));
  });
}

}  // namespace outrider::kernels
