#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <vector>

#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

// Kernels of cuBLAS by name, on raw device pointers, for who wants another than its first choice.

namespace outrider::kernels::cuda {

/// out[m,n] = a[m,k] b[k,n] in row-major order, summed in float32, or out += that. Pointers and
/// rows begin at multiples of 16 bytes.
struct MatrixProduct {
  DataType type, out_type;
  int64_t m, n, k;
  bool a_is_transposed, b_is_transposed;   // it lies as [k,m], [n,k]
  int64_t a_stride, b_stride, out_stride;  // elements from row to row, as they lie
  bool adds;

  friend auto operator<=>(const MatrixProduct&, const MatrixProduct&) = default;
};

struct ProductPointers {
  const void *a, *b;
  void* out;
};

/// What the library calls an algorithm. It may serve products of a somewhat different size, too.
using ProductKernel = std::array<uint64_t, 8>;

/// Those that the library proposes, of which none divides k among blocks: so all sum in one order.
/// None where LibTorch has not loaded the library.
OUTRIDER_LAUNCHER std::vector<ProductKernel> product_kernels(const MatrixProduct& product);

/// Whether the kernel can do this; nothing has happened otherwise.
OUTRIDER_LAUNCHER bool multiply_by(const ProductKernel& kernel, const MatrixProduct& product,
                                   const ProductPointers& pointers, CUstream_st* stream);

/// Whether work on the stream is being recorded as a CUDA graph.
OUTRIDER_LAUNCHER bool is_recorded(CUstream_st* stream);

}  // namespace outrider::kernels::cuda
