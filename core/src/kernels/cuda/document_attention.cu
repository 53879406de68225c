#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/cuda/document_attention.h"
#include "outrider/kernels/device_launch.cuh"

// The scheme of FlashAttention-2 (arXiv 2307.08691) on tiles of 64 queries and 64 keys: a warp has
// 16 queries of one head. A tile's keys begin where the document of its first query does, so that
// what is read follows the documents' lengths, and no block is without work; tiles that no query of
// a warp may see are passed over.

namespace outrider::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kQueries = 16 * kWarps, kKeys = 64;
constexpr float kNever = -INFINITY;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

/// `rows` vectors of kDim elements in shared memory, in chunks of 16 bytes that are exchanged
/// within a row so that those of neighbouring rows lie in different banks.
template <class T, int kDim>
struct Tile {
  static constexpr int kChunks = kDim / 8;

  T* data;

  __device__ T* chunk(int row, int chunk) const {
    return data + row * kDim + ((chunk ^ (row % 8)) * 8);
  }
  __device__ unsigned address(int row, int at) const {
    return static_cast<unsigned>(__cvta_generic_to_shared(chunk(row, at)));
  }
};

__device__ void copy_chunk(unsigned to, const void* from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(exists ? 16 : 0));
}

__device__ void commit_copies() { asm volatile("cp.async.commit_group;"); }

template <int kPending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending));
}

/// Four 8 × 8 matrices, of which lane l names a row of matrix l / 8.
struct Matrices {
  unsigned x[4];
};

__device__ Matrices load_matrices(unsigned address) {
  Matrices m;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m.x[0]), "=r"(m.x[1]), "=r"(m.x[2]), "=r"(m.x[3])
               : "r"(address));
  return m;
}

__device__ Matrices load_transposed(unsigned address) {
  Matrices m;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m.x[0]), "=r"(m.x[1]), "=r"(m.x[2]), "=r"(m.x[3])
               : "r"(address));
  return m;
}

/// A thread's part of 16 × 8 sums: columns 2 (lane % 4) and the next, of row lane / 4 and of the
/// eighth after it.
struct Sums {
  float x[4] = {0, 0, 0, 0};
};

/// sums += a · b, a 16 × 16 and b 16 × 8.
template <class T>
__device__ void multiply_add(Sums& sums, const Matrices& a, unsigned b0, unsigned b1) {
  float(&c)[4] = sums.x;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1));
  }
}

template <class T>
__device__ unsigned two_of(float low, float high) {
  const T both[2] = {static_cast<T>(low), static_cast<T>(high)};
  unsigned bits;
  memcpy(&bits, both, sizeof(bits));
  return bits;
}

__device__ float power_of_two(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

/// Over the four lanes that have a row's columns.
__device__ float sum_of_row(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ float largest_of_row(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/// kRows vectors of one head from `first` on become a tile; those from `end` on are zeros.
template <int kRows, class T, int kDim>
__device__ void fetch(const Tile<T, kDim>& tile, const HeadVectors& x, int64_t batch, int64_t head,
                      int first, int end) {
  constexpr int kChunks = Tile<T, kDim>::kChunks, kAtOnce = kThreads / kChunks;
  const int row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
  const auto* from = static_cast<const T*>(x.data) + batch * x.batch_stride + head * x.head_stride +
                     (first + row) * x.position_stride + chunk * 8;
  const int64_t step = kAtOnce * x.position_stride;
#pragma unroll
  for (int i = 0; i < kRows / kAtOnce; ++i, from += step) {
    const bool exists = first + row + i * kAtOnce < end;
    copy_chunk(tile.address(row + i * kAtOnce, chunk), exists ? from : x.data, exists);
  }
}

/// The keys from `from` to `to` of a query.
struct Seen {
  int from, to;
};

/// 16 queries of a warp.
template <class T, int kDim>
class Queries {
 public:
  __device__ Queries(const Tile<T, kDim>& tile, int first_row, const Seen (&seen)[2], float scale)
      : first_row_(first_row), scale_(scale) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < kParts; ++k) {
      rows_[k] = load_matrices(tile.address(first_row + lane % 16, 2 * k + lane / 16));
    }
    for (int half = 0; half < 2; ++half) seen_[half] = seen[half];
    earliest_ = __shfl_sync(0xffffffffu, seen[0].from, 0);
    last_from_ = __shfl_sync(0xffffffffu, seen[1].from, 31);
    first_to_ = __shfl_sync(0xffffffffu, seen[0].to, 0);
    latest_ = __shfl_sync(0xffffffffu, seen[1].to, 31);
  }

  /// Keys first … first + kKeys - 1.
  __device__ void attend(const Tile<T, kDim>& keys, const Tile<T, kDim>& values, int first) {
    if (first > latest_ || first + kKeys <= earliest_) return;
    Sums scores[kKeys / 8];
    multiply(keys, scores);
    const bool are_all_seen = first >= last_from_ && first + kKeys <= first_to_ + 1;
    if (!are_all_seen) hide(scores, first);
    for (int half = 0; half < 2; ++half) weigh(scores, half);
    add(values, scores);
  }

  /// The rows' results, into the tile that the queries came from.
  __device__ void finish(const Tile<T, kDim>& tile) {
    const int row = first_row_ + threadIdx.x % 32 / 4, column = 2 * (threadIdx.x % 4);
    for (int half = 0; half < 2; ++half) {
      total_[half] = sum_of_row(total_[half]);
      const float scale = 1 / total_[half];
      for (int n = 0; n < kDim / 8; ++n) {
        const unsigned bits =
            two_of<T>(output_[n].x[2 * half] * scale, output_[n].x[2 * half + 1] * scale);
        memcpy(tile.chunk(row + 8 * half, n) + column, &bits, sizeof(bits));
      }
    }
  }

  __device__ float log_sum_exp(int half) const {
    return (largest_[half] * scale_ + log2f(total_[half])) * kLn2;
  }

 private:
  static constexpr int kParts = kDim / 16;

  // Of keys from `first` on.
  __device__ void hide(Sums (&scores)[kKeys / 8], int first) const {
    const int column = first + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int from = seen_[i / 2].from - column, to = seen_[i / 2].to - column;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        const int key = 8 * n + i % 2;
        if (key < from || key > to) scores[n].x[i] = kNever;
      }
    }
  }

  // Scores of one row of the two become weights relative to its largest so far.
  __device__ void weigh(Sums (&scores)[kKeys / 8], int half) {
    float top = largest_[half];
#pragma unroll
    for (const auto& sums : scores) top = fmaxf(top, fmaxf(sums.x[2 * half], sums.x[2 * half + 1]));
    top = largest_of_row(top);
    const float origin = top == kNever ? 0 : top * scale_;
    const float kept = power_of_two(fmaf(largest_[half], scale_, -origin));
    largest_[half] = top;
    total_[half] *= kept;
#pragma unroll
    for (auto& sums : output_) {
      sums.x[2 * half] *= kept;
      sums.x[2 * half + 1] *= kept;
    }
#pragma unroll
    for (auto& sums : scores) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        sums.x[i] = power_of_two(fmaf(sums.x[i], scale_, -origin));
        total_[half] += sums.x[i];
      }
    }
  }

  // scores = queries · keysᵀ
  __device__ void multiply(const Tile<T, kDim>& keys, Sums (&scores)[kKeys / 8]) const {
    const int lane = threadIdx.x % 32;
    for (int n = 0; n < kKeys / 16; ++n) {
      for (int k = 0; k < kParts; ++k) {
        const auto b =
            load_matrices(keys.address(16 * n + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
        multiply_add<T>(scores[2 * n], rows_[k], b.x[0], b.x[1]);
        multiply_add<T>(scores[2 * n + 1], rows_[k], b.x[2], b.x[3]);
      }
    }
  }

  // output += weights · values
  __device__ void add(const Tile<T, kDim>& values, const Sums (&weights)[kKeys / 8]) {
    const int lane = threadIdx.x % 32;
    for (int k = 0; k < kKeys / 16; ++k) {
      const auto &left = weights[2 * k].x, &right = weights[2 * k + 1].x;
      const Matrices a = {{two_of<T>(left[0], left[1]), two_of<T>(left[2], left[3]),
                           two_of<T>(right[0], right[1]), two_of<T>(right[2], right[3])}};
      for (int n = 0; n < kParts; ++n) {
        const auto b = load_transposed(values.address(16 * k + lane % 16, 2 * n + lane / 16));
        multiply_add<T>(output_[2 * n], a, b.x[0], b.x[1]);
        multiply_add<T>(output_[2 * n + 1], a, b.x[2], b.x[3]);
      }
    }
  }

  int first_row_;
  int earliest_, last_from_, first_to_, latest_;  // keys that any of them sees, and that all see
  float scale_;                                   // to powers of two
  Seen seen_[2];                                  // of row lane / 4, and of the eighth after it
  Matrices rows_[kParts];
  Sums output_[kDim / 8];
  float largest_[2] = {kNever, kNever}, total_[2] = {0, 0};
};

template <class T, int kDim>
constexpr size_t kSharedBytes = sizeof(T) * kDim*(kQueries + 4 * kKeys);

struct LogSumExp {
  float* data;
  int64_t batch_stride, head_stride;
};

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, kDim == 64 ? 4 : 2)
    document_attention_kernel(DocumentAttentionShape shape, AttentionInputs in,
                              DocumentStarts starts, HeadVectors output, LogSumExp lse) {
  extern __shared__ __align__(128) unsigned char shared[];
  auto* memory = reinterpret_cast<T*>(shared);
  const Tile<T, kDim> queries{memory};
  const auto keys = [&](int i) {
    return Tile<T, kDim>{memory + (kQueries + 2 * i * kKeys) * kDim};
  };
  const auto values = [&](int i) { return Tile<T, kDim>{keys(i).data + kKeys * kDim}; };
  const int64_t batch = blockIdx.z, head = blockIdx.y;
  const int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const auto length = static_cast<int>(shape.length);
  const int first = blockIdx.x * kQueries, end = min(first + kQueries, length);
  const auto seen_by = [&](int query) {
    const int own = min(query, length - 1);
    const int64_t from = max(starts.data[batch * starts.stride + own], own + 1 - shape.window);
    return Seen{static_cast<int>(from), own};
  };
  const int first_key = seen_by(first).from, tiles = (end - first_key + kKeys - 1) / kKeys;
  const auto fetch_keys = [&](int tile) {
    const int at = first_key + tile * kKeys;
    fetch<kKeys>(keys(tile % 2), in.key, batch, kv_head, at, end);
    fetch<kKeys>(values(tile % 2), in.value, batch, kv_head, at, end);
    commit_copies();
  };
  fetch<kQueries>(queries, in.query, batch, head, first, end);
  commit_copies();
  fetch_keys(0);
  wait_for_copies<1>();
  __syncthreads();
  const int warp_row = threadIdx.x / 32 * 16, row = threadIdx.x % 32 / 4;
  const Seen seen[2] = {seen_by(first + warp_row + row), seen_by(first + warp_row + row + 8)};
  Queries<T, kDim> own(queries, warp_row, seen, static_cast<float>(shape.scale) * kLog2E);
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      fetch_keys(tile + 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    own.attend(keys(tile % 2), values(tile % 2), first_key + tile * kKeys);
    __syncthreads();  // the next tile but one is written over this one
  }
  own.finish(queries);
  __syncwarp();
  auto* to = static_cast<T*>(const_cast<void*>(output.data)) + batch * output.batch_stride +
             head * output.head_stride;
  constexpr int kChunks = Tile<T, kDim>::kChunks;
  for (int i = threadIdx.x % 32; i < 16 * kChunks; i += 32) {
    const int query = first + warp_row + i / kChunks;
    if (query >= length) break;
    *reinterpret_cast<uint4*>(to + query * output.position_stride + i % kChunks * 8) =
        *reinterpret_cast<const uint4*>(queries.chunk(warp_row + i / kChunks, i % kChunks));
  }
  for (int half = 0; half < 2; ++half) {
    const int query = first + warp_row + row + 8 * half;
    if (threadIdx.x % 4 == 0 && query < length) {
      lse.data[batch * lse.batch_stride + head * lse.head_stride + query] = own.log_sum_exp(half);
    }
  }
}

template <class T, int kDim>
cudaError_t launch_tiles(const DocumentAttentionShape& shape, const AttentionInputs& inputs,
                         const DocumentStarts& starts, const HeadVectors& output,
                         const LogSumExp& lse, cudaStream_t stream) {
  const auto kernel = document_attention_kernel<T, kDim>;
  constexpr size_t kBytes = kSharedBytes<T, kDim>;
  const auto status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(kBytes));
  if (status != cudaSuccess) return status;
  const auto tiles = static_cast<unsigned>((shape.length + kQueries - 1) / kQueries);
  return kernels::launch(
      kernel, dim3(tiles, static_cast<unsigned>(shape.heads), static_cast<unsigned>(shape.batch)),
      dim3(kThreads), kBytes, stream, shape, inputs, starts, output, lse);
}

}  // namespace

int document_attention(const DocumentAttentionShape& shape, const AttentionInputs& inputs,
                       const DocumentStarts& starts, const HeadVectors& output, float* lse,
                       int64_t lse_batch_stride, int64_t lse_head_stride, CUstream_st* stream) {
  if (shape.batch * shape.heads * shape.length == 0) return cudaSuccess;
  return kernels::with_type(shape.type, [&]<class T>(T) -> int {
    if constexpr (sizeof(T) == 2) {
      const auto by = shape.head_dim == 64    ? launch_tiles<T, 64>
                      : shape.head_dim == 128 ? launch_tiles<T, 128>
                                              : nullptr;
      if (by) {
        return by(shape, inputs, starts, output, {lse, lse_batch_stride, lse_head_stride}, stream);
      }
    }
    return cudaErrorInvalidValue;
  });
}

}  // namespace outrider::cuda
