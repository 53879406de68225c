#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/few_rows_device.cuh"

// A warp multiplies tiles of 8 outputs with all rows by mma.m16n8k16, rows padded to 16. The order
// of the inner elements within a product is free, so each lane takes 8 that follow each other: one
// load of 16 bytes for two products. The warps of a block share the inner dimension; RMSNorm's
// factor is a row's own and is applied to the sums, its weight to the rows.

namespace outrider::cuda {
namespace {

constexpr int kTile = 8;    // outputs
constexpr int kChunk = 32;  // inner elements of two products

// x · w, and the sum of x².
__device__ uint32_t weighted(uint32_t pair, uint32_t weight, float& squares) {
  const float2 x = widen(pair), w = widen(weight);
  squares += x.x * x.x + x.y * x.y;
  return narrow(x.x * w.x, x.y * w.y);
}

__device__ void apply_norm(uint4& x, const uint4& w, float& squares) {
  x = {weighted(x.x, w.x, squares), weighted(x.y, w.y, squares), weighted(x.z, w.z, squares),
       weighted(x.w, w.w, squares)};
}

// Which part an output belongs to, and its number there.
struct Place {
  int part;
  int64_t output;
};

__device__ Place place_of(const FewRowsProduct& p, int64_t output) {
  int part = 0;
  while (part < 2 && output >= p.parts[part].outputs) output -= p.parts[part++].outputs;
  return {part, output};
}

// Behind the last output of a tile that is not whole, the last one's.
__device__ const __nv_bfloat16* weight_row(const FewRowsProduct& p, const Place& tile, int line) {
  const auto& part = p.parts[tile.part];
  return static_cast<const __nv_bfloat16*>(part.weight) +
         min(tile.output + line, part.outputs - 1) * p.inner;
}

// The block's i-th tile: gated, the first half of them are of the first part and the others of the
// second.
template <int kTiles>
__device__ Place tile_of(const FewRowsProduct& p, int i) {
  constexpr int kHalf = (kTiles + 1) / 2;
  const auto block = static_cast<int64_t>(blockIdx.x);
  if (p.gated) return {i / kHalf, (block * kHalf + i % kHalf) * kTile};
  return place_of(p, (block * kTiles + i) * kTile);
}

__device__ float biased(const FewRowsProduct& p, const Place& place, float x) {
  const auto* bias = static_cast<const __nv_bfloat16*>(p.parts[place.part].bias);
  return bias ? x + __bfloat162float(bias[place.output]) : x;
}

__device__ float rounded(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

// How a kernel divides its work: rows by halves of a row tile, so many tiles of outputs for each
// warp, so many chunks whose weights are loaded together, and registers of a thread.
template <int warps, int halves, int tiles, int at_once, int registers>
struct Division {
  static constexpr int kWarps = warps, kHalves = halves, kTiles = tiles, kAtOnce = at_once;
  static constexpr int kRowTiles = (halves + 1) / 2, kThreads = warps * 32;
  static constexpr int kBlocks = 65536 / registers / kThreads;  // of a multiprocessor
};

template <class D>
struct Sums {
  float of_outputs[D::kWarps][D::kHalves * 8][D::kTiles * kTile];
  float squares[D::kWarps][D::kHalves * 8];
};

template <class D, bool kNormed>
__global__ void __launch_bounds__(D::kThreads, D::kBlocks) product_kernel(FewRowsProduct p) {
  constexpr int kWarps = D::kWarps, kTiles = D::kTiles, kAtOnce = D::kAtOnce;
  __shared__ Sums<D> shared;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int group = lane / 4, quarter = lane % 4;
  const int64_t chunks = p.inner / kChunk;

  // Gated: tiles of the first part and the same of the second.
  const __nv_bfloat16* weights[kTiles];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    weights[i] = weight_row(p, tile_of<kTiles>(p, i), group) + quarter * 8;
  }
  const auto* x = static_cast<const __nv_bfloat16*>(p.x) + quarter * 8;
  const auto* norm = static_cast<const __nv_bfloat16*>(p.norm) + quarter * 8;

  float sums[D::kRowTiles][kTiles][4] = {};
  float squares[D::kHalves] = {};
  bool has_waited = false;
  for (int64_t begin = static_cast<int64_t>(warp) * kAtOnce; begin < chunks;
       begin += kWarps * kAtOnce) {
    uint4 w[kAtOnce][kTiles], n[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const bool is_inside = begin + u < chunks;
      const int64_t offset = (begin + u) * kChunk;
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        w[u][i] = is_inside ? load_once(weights[i] + offset) : uint4{};
      }
      if constexpr (kNormed) n[u] = is_inside ? load_kept(norm + offset) : uint4{};
    }
    if (!has_waited) {
      wait_for_previous();
      begin_dependents();
    }
    has_waited = true;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const bool is_inside = begin + u < chunks;
      const int64_t offset = (begin + u) * kChunk;
      uint4 rows[D::kRowTiles * 2] = {};
#pragma unroll
      for (int half = 0; half < D::kHalves; ++half) {
        const int row = half * 8 + group;
        if (is_inside && row < p.rows) rows[half] = load_fresh(x + row * p.inner + offset);
        if constexpr (kNormed) apply_norm(rows[half], n[u], squares[half]);
      }
#pragma unroll
      for (int r = 0; r < D::kRowTiles; ++r) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          multiply_packs(sums[r][i], rows[2 * r], rows[2 * r + 1], w[u][i]);
        }
      }
    }
  }
  if (!has_waited) {
    wait_for_previous();
    begin_dependents();
  }

#pragma unroll
  for (int half = 0; half < D::kHalves; ++half) {
    const int row = half * 8 + group;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const float* own = &sums[half / 2][i][half % 2 * 2];
      shared.of_outputs[warp][row][i * kTile + quarter * 2] = own[0];
      shared.of_outputs[warp][row][i * kTile + quarter * 2 + 1] = own[1];
    }
    if constexpr (kNormed) {
      float all = squares[half];
      all += __shfl_xor_sync(~0u, all, 1);
      all += __shfl_xor_sync(~0u, all, 2);
      if (quarter == 0) shared.squares[warp][row] = all;
    }
  }
  __syncthreads();

  const auto sum_of = [&](int row, int column) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += shared.of_outputs[i][row][column];
    return sum;
  };
  const auto factor_of = [&](int row) {
    if constexpr (!kNormed) return 1.0f;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += shared.squares[i][row];
    return rsqrtf(sum / static_cast<float>(p.inner) + p.eps);
  };
  int64_t width = p.parts[0].outputs;
  if (!p.gated) width += p.parts[1].outputs + p.parts[2].outputs;
  auto* y = static_cast<__nv_bfloat16*>(p.y);
  const auto* residual = static_cast<const __nv_bfloat16*>(p.residual);
  constexpr int kHalfOfTiles = (kTiles + 1) / 2;
  const int columns = (p.gated ? kHalfOfTiles : kTiles) * kTile;
  for (int at = static_cast<int>(threadIdx.x); at < p.rows * columns; at += D::kThreads) {
    const int row = at / columns, column = at % columns;
    const int64_t output = static_cast<int64_t>(blockIdx.x) * columns + column;
    if (output >= width) continue;
    const float factor = factor_of(row);
    const Place first = p.gated ? Place{0, output} : place_of(p, output);
    float value = rounded(biased(p, first, sum_of(row, column) * factor));
    if constexpr (kTiles > 1) {
      if (p.gated) {
        const float up =
            rounded(biased(p, {1, output}, sum_of(row, kHalfOfTiles * kTile + column) * factor));
        value = rounded(value / (1.0f + __expf(-value))) * up;
      }
    }
    const int64_t index = row * width + output;
    if (residual) value = rounded(value) + __bfloat162float(residual[index]);
    y[index] = __float2bfloat16_rn(value);
  }
}

template <class D>
int launch_division(const FewRowsProduct& p, int64_t blocks, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(blocks)), block(D::kThreads);
  return p.norm ? launch_dependent(product_kernel<D, true>, grid, block, 0, stream, p)
                : launch_dependent(product_kernel<D, false>, grid, block, 0, stream, p);
}

// Tiles of one warp read the rows once for all; where there are few tiles, each has a block of its
// own; one row's tiles share the norm too. Which is best was measured on an H100.
template <int kHalves>
int launch_halves(const FewRowsProduct& p, int64_t tiles, cudaStream_t stream) {
  constexpr int64_t kManyTiles = 1024, kAtOnce = 264;  // blocks of 16 warps that run together
  constexpr bool kHasManyRows = kHalves > 2;
  const auto in_fours = [&] {
    return launch_division<Division<8, kHalves, 4, 2, 128>>(p, tiles / 4, stream);
  };
  const auto in_pairs = [&] {
    return launch_division<Division<8, kHalves, 2, 4, 128>>(p, tiles / 2, stream);
  };
  if (kHasManyRows && tiles % 4 == 0 && tiles >= kManyTiles) return in_fours();
  const bool shares_much = tiles >= kManyTiles || (kHalves == 1 && p.norm);
  if (p.gated || (tiles % 2 == 0 && shares_much)) return in_pairs();
  // A second round of blocks that leaves much of the device idle.
  const bool is_uneven = tiles > 2 * kAtOnce || (tiles > kAtOnce && tiles % kAtOnce < kAtOnce / 2);
  if (tiles % 2 == 0 && is_uneven) {
    return kHasManyRows ? in_pairs()
                        : launch_division<Division<8, kHalves, 2, 2, 80>>(p, tiles / 2, stream);
  }
  if (p.inner < kManyTiles && p.norm) {
    return launch_division<Division<8, kHalves, 1, kHalves == 1 ? 8 : 4, 128>>(p, tiles, stream);
  }
  return launch_division<Division<16, kHalves, 1, 4, kHasManyRows ? 128 : 64>>(p, tiles, stream);
}

}  // namespace

int few_rows_product(const FewRowsProduct& p, CUstream_st* stream) {
  int64_t outputs = 0;
  for (const auto& part : p.parts) outputs += part.outputs;
  if (p.rows == 0 || outputs == 0) return cudaSuccess;
  const int64_t tiles = (outputs + kTile - 1) / kTile;
  if (p.rows <= 8) return launch_halves<1>(p, tiles, stream);
  if (p.rows <= 16) return launch_halves<2>(p, tiles, stream);
  if (p.rows <= 24) return launch_halves<3>(p, tiles, stream);
  return launch_halves<4>(p, tiles, stream);
}

}  // namespace outrider::cuda
