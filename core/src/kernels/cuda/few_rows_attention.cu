#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/few_rows_device.cuh"

// A block takes 16 queries of one key head and a share of its keys; its warps go through 16 keys at
// a time, by tensor cores, two of them through the new ones. Nothing passes through shared memory
// on the way: the order of a product's inner elements is free, so a lane takes packs of 8 as they
// lie in memory, of queries and keys for the scores, of values (whose columns may be in any order
// too) for the rest. Warps meet in shared memory, shares in the workspace, where the last block to
// finish joins them.

namespace outrider::cuda {
namespace {

constexpr int kQueries = 16, kKeys = 16;
constexpr int kKeptWarps = 6, kNewWarps = static_cast<int>(kMostFewRows) / kKeys;
constexpr int kWarps = kKeptWarps + kNewWarps;
constexpr int kThreads = kWarps * 32;
constexpr int kPack = 8;
constexpr int kKeysOfBlock = kKeptWarps * kKeys;
// Joining shares costs as much as going through so many keys: a share has as many before there is
// another one.
constexpr int kWorthAShare = 4 * kKeysOfBlock;
constexpr int kMostShares = 32;
constexpr int64_t kManyBlocks = 4096;  // with which there is no use in more shares

// Of a head's vector: a lane of four has the packs t, t + 4, … for scores; of eight the packs g,
// g + 8, … of values.
template <int size>
struct Head {
  static constexpr int kSize = size, kPacks = size / kPack;
  static constexpr int kScorePacks = kPacks / 4;
  static constexpr int kRounds = (kPacks + 7) / 8;
  // Chunks of keys that a warp has in registers or on their way to them.
  static constexpr int kAhead = size <= 64 ? 2 : 1;
};

struct Vector {
  float x[kPack];
};

__device__ Vector widened(const uint4& bits) {
  Vector v;
  widen(bits, v.x);
  return v;
}

__device__ float as_stored(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

// Of the lanes that share a row of a tile.
__device__ float row_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

/// What a block works on, and where the lane stands in it.
struct Work {
  int sequence, share, key_head, first_query, queries, present, of_group;
  int kept, keys_of_share, shares;
  int warp, lane, group, quarter;
};

__device__ Work work_of(const FewRowsAttention& a, int query_tiles, int most_shares) {
  Work w;
  w.sequence = static_cast<int>(blockIdx.z);
  w.share = static_cast<int>(blockIdx.x);
  w.key_head = static_cast<int>(blockIdx.y) / query_tiles;
  w.first_query = (static_cast<int>(blockIdx.y) - w.key_head * query_tiles) * kQueries;
  w.of_group = static_cast<int>(a.heads) / static_cast<int>(a.key_heads);
  w.queries = w.of_group * static_cast<int>(a.rows);
  w.present = min(kQueries, w.queries - w.first_query);
  w.kept = static_cast<int>(a.lengths[a.length_batch == 1 ? 0 : w.sequence]);
  w.shares = min(most_shares, max(1, (w.kept + kWorthAShare - 1) / kWorthAShare));
  const int even = (w.kept + w.shares - 1) / w.shares;
  w.keys_of_share = (even + kKeys - 1) / kKeys * kKeys;
  w.warp = static_cast<int>(threadIdx.x) / 32;
  w.lane = static_cast<int>(threadIdx.x) % 32;
  w.group = w.lane / 4;
  w.quarter = w.lane % 4;
  return w;
}

// Query q of a key head: head q % of_group of its group, new row q / of_group.
struct Query {
  int row, head;
};
__device__ Query query_of(const Work& w, int query) {
  const int row = query / w.of_group;
  return {row, w.key_head * w.of_group + query - row * w.of_group};
}

__device__ int row_number(const FewRowsAttention& a, int sequence, int row) {
  return (a.position_batch == 1 ? 0 : sequence) * static_cast<int>(a.rows) + row;
}

__device__ int position_of(const FewRowsAttention& a, int sequence, int row) {
  return static_cast<int>(a.positions[row_number(a, sequence, row)]);
}

__device__ bool is_ancestor(const FewRowsAttention& a, const Work& w, int row, int slot) {
  if (!a.seen) return slot <= w.kept + row;
  const int width = static_cast<int>(a.seen_rows);
  const int in_tree = slot - (w.kept + static_cast<int>(a.rows) - width);
  if (in_tree < 0) return true;
  const int line = (a.seen_batch == 1 ? 0 : w.sequence) * static_cast<int>(a.rows) + row;
  return a.seen[static_cast<int64_t>(line) * width + in_tree];
}

// Whether a query's row sees the key at a slot.
__device__ bool sees(const FewRowsAttention& a, const Work& w, int query, int slot) {
  const int row = query / w.of_group;
  if (a.window > 0) {
    const int key_position = slot < w.kept ? slot : position_of(a, w.sequence, slot - w.kept);
    if (position_of(a, w.sequence, row) - key_position >= a.window) return false;
  }
  return is_ancestor(a, w, row, slot);
}

__device__ const __nv_bfloat16* head_of(const FewRowsAttention& a, const Work& w, int row, int head,
                                        int size) {
  const int number =
      (w.sequence * static_cast<int>(a.rows) + row) * static_cast<int>(a.heads + 2 * a.key_heads) +
      head;
  return static_cast<const __nv_bfloat16*>(a.qkv) + static_cast<int64_t>(number) * size;
}

__device__ void apply_weight(Vector& v, const void* norm, int element, float factor) {
  const auto weight = widened(load_kept(static_cast<const __nv_bfloat16*>(norm) + element));
#pragma unroll
  for (int i = 0; i < kPack; ++i) v.x[i] = as_stored(as_stored(v.x[i] * factor) * weight.x[i]);
}

// A new row's rotation, of the packs that belong to a lane for the scores.
template <class H>
struct Tables {
  uint4 cos[H::kScorePacks], sin[H::kScorePacks];
};

template <class H>
__device__ void load_tables(const FewRowsAttention& a, const Work& w, int row, Tables<H>& tables) {
  const int number = row_number(a, w.sequence, row);
  const int table = a.tables_by_position ? static_cast<int>(a.positions[number]) : number;
  const int64_t first = static_cast<int64_t>(table) * a.rotated;
#pragma unroll
  for (int i = 0; i < H::kScorePacks; ++i) {
    const int element = (w.quarter + 4 * i) * kPack;
    if (element >= a.rotated) continue;
    tables.cos[i] = load_kept(static_cast<const __nv_bfloat16*>(a.cos) + first + element);
    tables.sin[i] = load_kept(static_cast<const __nv_bfloat16*>(a.sin) + first + element);
  }
}

// Those packs of a head's vector, normed and rotated. The four lanes of a row come here together.
template <class H>
__device__ void load_rotated(const FewRowsAttention& a, const Work& w, int row, int head,
                             const void* norm, const Tables<H>& tables,
                             uint4 (&out)[H::kScorePacks]) {
  const auto* vector = head_of(a, w, row, head, H::kSize);
  const int half = static_cast<int>(a.rotated) / 2;
  const auto partner = [&](int element) {
    return element < half ? element + half : element - half;
  };
  uint4 own_bits[H::kScorePacks], other_bits[H::kScorePacks];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < H::kScorePacks; ++i) {
    const int element = (w.quarter + 4 * i) * kPack;
    own_bits[i] = load_fresh(vector + element);
    other_bits[i] = element < a.rotated ? load_fresh(vector + partner(element)) : uint4{};
  }
  float factor = 1.0f;
  if (norm) {
#pragma unroll
    for (int i = 0; i < H::kScorePacks; ++i) {
      for (const float x : widened(own_bits[i]).x) squares += x * x;
    }
    factor = rsqrtf(row_sum(squares) / H::kSize + a.eps);
  }
#pragma unroll
  for (int i = 0; i < H::kScorePacks; ++i) {
    const int element = (w.quarter + 4 * i) * kPack;
    auto own = widened(own_bits[i]);
    if (norm) apply_weight(own, norm, element, factor);
    if (element < a.rotated) {
      auto other = widened(other_bits[i]);
      if (norm) apply_weight(other, norm, partner(element), factor);
      const auto cos = widened(tables.cos[i]), sin = widened(tables.sin[i]);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        const float turned = element < half ? -other.x[j] : other.x[j];
        own.x[j] = as_stored(own.x[j] * cos.x[j]) + as_stored(turned * sin.x[j]);
      }
    }
    out[i] = narrowed(own.x);
  }
}

// 16 keys and their values as a lane holds them: of key g and 8 + g the packs for scores, of keys
// 2t, 2t + 1, 2t + 8, 2t + 9 those of values.
template <class H>
struct Chunk {
  uint4 keys[2][H::kScorePacks];
  uint4 values[4][H::kRounds];
};

__device__ int key_of_value(const Work& w, int i) { return 2 * w.quarter + i % 2 + i / 2 * 8; }

template <class H>
__device__ void load_values(const Work& w, int count, Chunk<H>& chunk, const auto& row_of) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int key = key_of_value(w, i);
#pragma unroll
    for (int r = 0; r < H::kRounds; ++r) {
      const int pack = w.group + 8 * r;
      const bool is_there = key < count && pack < H::kPacks;
      chunk.values[i][r] = is_there ? load_fresh(row_of(key) + pack * kPack) : uint4{};
    }
  }
}

template <class H>
__device__ void load_kept_keys(const Work& w, const __nv_bfloat16* keys,
                               const __nv_bfloat16* values, int count, Chunk<H>& chunk) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int key = 8 * j + w.group;
#pragma unroll
    for (int i = 0; i < H::kScorePacks; ++i) {
      const auto* pack = keys + static_cast<int64_t>(key) * H::kSize + (w.quarter + 4 * i) * kPack;
      chunk.keys[j][i] = key < count ? load_fresh(pack) : uint4{};
    }
  }
  load_values(w, count, chunk,
              [&](int key) { return values + static_cast<int64_t>(key) * H::kSize; });
}

template <int count>
__device__ void clear(uint4 (&packs)[count]) {
#pragma unroll
  for (uint4& pack : packs) pack = {};
}

// 16 new rows from `first`, with the tables of the first eight: also written behind the kept ones,
// by the first tile of queries.
template <class H>
__device__ void load_new_keys(const FewRowsAttention& a, const Work& w, __nv_bfloat16* keys,
                              __nv_bfloat16* values, int first, int count,
                              const Tables<H>& first_tables, Chunk<H>& chunk) {
  const bool writes = w.first_query == 0;
  const auto place = [&](__nv_bfloat16* all, int row, int pack) {
    return reinterpret_cast<uint4*>(all + static_cast<int64_t>(w.kept + first + row) * H::kSize +
                                    pack * kPack);
  };
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int key = 8 * j + w.group, row = first + min(key, count - 1);
    if (8 * j >= count) {
      clear(chunk.keys[j]);
      continue;
    }
    auto tables = first_tables;
    if (j > 0) load_tables<H>(a, w, row, tables);
    load_rotated<H>(a, w, row, static_cast<int>(a.heads) + w.key_head, a.key_norm, tables,
                    chunk.keys[j]);
#pragma unroll
    for (int i = 0; i < H::kScorePacks; ++i) {
      if (key < count && writes) *place(keys, key, w.quarter + 4 * i) = chunk.keys[j][i];
    }
  }
  load_values(w, count, chunk, [&](int key) {
    return head_of(a, w, first + key, static_cast<int>(a.heads + a.key_heads) + w.key_head,
                   H::kSize);
  });
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int r = 0; r < H::kRounds; ++r) {
      const int key = key_of_value(w, i), pack = w.group + 8 * r;
      if (writes && key < count && pack < H::kPacks) *place(values, key, pack) = chunk.values[i][r];
    }
  }
}

// What the softmax of rows g and g + 8 over some keys has come to. values[r][e]: element e of the
// packs 8r + 2t and 8r + 2t + 1, of both rows.
template <class H>
struct Running {
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  float values[H::kRounds][kPack][4] = {};
};

__device__ float weight_of(float score, float most) {
  return score == -INFINITY ? 0.0f : __expf(score - most);
}

// Elements e of two packs, side by side.
__device__ uint32_t both(const uint4& low, const uint4& high, int e) {
  const uint32_t l[4] = {low.x, low.y, low.z, low.w}, h[4] = {high.x, high.y, high.z, high.w};
  return __byte_perm(l[e / 2], h[e / 2], e % 2 == 0 ? 0x5410 : 0x7632);
}

template <class H>
__device__ void attend(const Work& w, const uint4 (&queries)[2][H::kScorePacks],
                       const Chunk<H>& chunk, const auto& is_seen, Running<H>& running) {
  float scores[2][4] = {};
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int i = 0; i < H::kScorePacks; ++i) {
      multiply_packs(scores[j], queries[0][i], queries[1][i], chunk.keys[j][i]);
    }
  }
  const float scale = rsqrtf(static_cast<float>(H::kSize));
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int key = 8 * j + 2 * w.quarter + c % 2, row = w.group + c / 2 * 8;
      scores[j][c] = is_seen(row, key) ? scores[j][c] * scale : -INFINITY;
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float* first = &scores[0][2 * half];
    const float* second = &scores[1][2 * half];
    const float most = fmaxf(
        running.most[half], row_max(fmaxf(fmaxf(first[0], first[1]), fmaxf(second[0], second[1]))));
    const float factor = weight_of(running.most[half], most);
    running.most[half] = most;
    running.sum[half] *= factor;
#pragma unroll
    for (int r = 0; r < H::kRounds; ++r) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        running.values[r][e][2 * half] *= factor;
        running.values[r][e][2 * half + 1] *= factor;
      }
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int c = 2 * half; c < 2 * half + 2; ++c) {
        scores[j][c] = weight_of(scores[j][c], most);
        running.sum[half] += scores[j][c];
      }
    }
  }
  const uint32_t weights[4] = {
      narrow(scores[0][0], scores[0][1]), narrow(scores[0][2], scores[0][3]),
      narrow(scores[1][0], scores[1][1]), narrow(scores[1][2], scores[1][3])};
#pragma unroll
  for (int r = 0; r < H::kRounds; ++r) {
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      multiply(running.values[r][e], weights[0], weights[1], weights[2], weights[3],
               both(chunk.values[0][r], chunk.values[1][r], e),
               both(chunk.values[2][r], chunk.values[3][r], e));
    }
  }
}

/// Before the values [warp][present query], of which there are no more than needed: what other
/// kernels leave of a multiprocessor's memory as a cache is where their weights arrive.
template <class H>
struct alignas(16) Shared {
  // Longer than needed, so that the rows of a tile begin in other banks.
  static constexpr int kLine = H::kSize + 4;
  float most[kWarps][kQueries], sum[kWarps][kQueries];
  bool is_last;

  __device__ float* values(const Work& w, int warp, int query) {
    return reinterpret_cast<float*>(this + 1) + (warp * w.present + query) * kLine;
  }
  static int bytes(int64_t queries) {
    const auto present = static_cast<int>(std::min<int64_t>(queries, kQueries));
    return static_cast<int>(sizeof(Shared)) +
           kWarps * present * kLine * static_cast<int>(sizeof(float));
  }
};

/// Where shares leave what they have come to: [tile][share][query]{most, sum, values}, and before
/// it how many of a tile's shares are done.
template <class H>
struct Workspace {
  static constexpr int kRecord = H::kSize + 2;
  int* done;
  float* records;

  __device__ float* record(int share, int query) const {
    return records + static_cast<int64_t>(share * kQueries + query) * kRecord;
  }
};

template <class H>
__device__ Workspace<H> workspace_of(const FewRowsAttention& a, int most_shares) {
  const int tile = static_cast<int>(blockIdx.z * gridDim.y + blockIdx.y);
  const int tiles = static_cast<int>(gridDim.z * gridDim.y);
  auto* done = static_cast<int*>(a.workspace);
  auto* records = reinterpret_cast<float*>(done + tiles);
  return {done + tile,
          records + static_cast<int64_t>(tile) * most_shares * kQueries * Workspace<H>::kRecord};
}

template <class H>
__device__ void write(const FewRowsAttention& a, const Work& w, int query, int element,
                      float value) {
  const auto place = query_of(w, w.first_query + query);
  const int number =
      (w.sequence * static_cast<int>(a.rows) + place.row) * static_cast<int>(a.heads) + place.head;
  static_cast<__nv_bfloat16*>(a.y)[static_cast<int64_t>(number) * H::kSize + element] =
      __float2bfloat16_rn(value);
}

// What a warp has come to, as a part of what its block has: exp(own most - the block's).
template <class H>
__device__ void leave_in_block(const Work& w, const Running<H>& running, int half,
                               Shared<H>& shared) {
  const int query = w.group + 8 * half;
  float most = -INFINITY;
#pragma unroll
  for (int v = 0; v < kWarps; ++v) most = fmaxf(most, shared.most[v][query]);
  const float factor = weight_of(running.most[half], most);
  const float sum = row_sum(running.sum[half]) * factor;
  if (query >= w.present) return;
  if (w.quarter == 0) shared.sum[w.warp][query] = sum;
  float* values = shared.values(w, w.warp, query);
#pragma unroll
  for (int r = 0; r < H::kRounds; ++r) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int pack = 8 * r + 2 * w.quarter + side, at = 2 * half + side;
      if (pack >= H::kPacks) continue;
      const auto& v = running.values[r];
      auto* line = reinterpret_cast<float4*>(values + pack * kPack);
      line[0] = {v[0][at] * factor, v[1][at] * factor, v[2][at] * factor, v[3][at] * factor};
      line[1] = {v[4][at] * factor, v[5][at] * factor, v[6][at] * factor, v[7][at] * factor};
    }
  }
}

// The block's warps together: into y, or where there are several shares into the workspace.
template <class H>
__device__ void join_warps(const FewRowsAttention& a, const Work& w, const Running<H>& running,
                           const Workspace<H>& workspace, Shared<H>& shared) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (w.quarter == 0) shared.most[w.warp][w.group + 8 * half] = running.most[half];
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (8 * half < w.present) leave_in_block(w, running, half, shared);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < w.present * H::kSize; i += kThreads) {
    const int query = i / H::kSize, element = i % H::kSize;
    float sum = 0, value = 0;
#pragma unroll
    for (int v = 0; v < kWarps; ++v) {
      sum += shared.sum[v][query];
      value += shared.values(w, v, query)[element];
    }
    if (w.shares == 1) {
      write<H>(a, w, query, element, value / sum);
      continue;
    }
    float* record = workspace.record(w.share, query);
    record[2 + element] = value;
    if (element != 0) continue;
    float most = -INFINITY;
    for (int v = 0; v < kWarps; ++v) most = fmaxf(most, shared.most[v][query]);
    record[0] = most;
    record[1] = sum;
  }
}

template <class H>
__device__ void join_shares(const FewRowsAttention& a, const Work& w, const Workspace<H>& workspace,
                            Shared<H>& shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    shared.is_last = atomicAdd(workspace.done, 1) == w.shares - 1;
    if (shared.is_last) *workspace.done = 0;
    __threadfence();
  }
  __syncthreads();
  if (!shared.is_last) return;
  for (int i = static_cast<int>(threadIdx.x); i < w.present * H::kSize; i += kThreads) {
    const int query = i / H::kSize, element = i % H::kSize;
    float most = -INFINITY, sum = 0, value = 0;
#pragma unroll 4
    for (int s = 0; s < w.shares; ++s) {
      const float* record = workspace.record(s, query);
      const float own = __ldcg(record), own_sum = __ldcg(record + 1),
                  own_value = __ldcg(record + 2 + element);
      const float higher = fmaxf(most, own);
      const float before = weight_of(most, higher), factor = weight_of(own, higher);
      sum = sum * before + factor * own_sum;
      value = value * before + factor * own_value;
      most = higher;
    }
    write<H>(a, w, query, element, value / sum);
  }
}

template <class H>
__global__ void __launch_bounds__(kThreads)
    attention_kernel(FewRowsAttention a, int query_tiles, int most_shares) {
  extern __shared__ uint4 dynamic_shared[];
  auto& shared = *reinterpret_cast<Shared<H>*>(dynamic_shared);
  const auto w = work_of(a, query_tiles, most_shares);
  if (w.share >= w.shares) {
    wait_for_previous();
    begin_dependents();
    return;
  }
  const int64_t cached =
      (static_cast<int64_t>(w.sequence) * a.key_heads + w.key_head) * a.capacity * H::kSize;
  auto* keys = static_cast<__nv_bfloat16*>(a.keys) + cached;
  auto* values = static_cast<__nv_bfloat16*>(a.values) + cached;

  // Kept keys and positions were written long ago: they are loaded while the kernel before still
  // runs.
  const bool has_kept = w.warp < kKeptWarps;
  const int end = has_kept ? min(w.kept, (w.share + 1) * w.keys_of_share) : 0;
  int first = w.share * w.keys_of_share + w.warp * kKeys;
  Chunk<H> chunks[H::kAhead];
  const auto load = [&](int begin, Chunk<H>& chunk) {
    if (begin >= end) return;
    const int64_t offset = static_cast<int64_t>(begin) * H::kSize;
    load_kept_keys<H>(w, keys + offset, values + offset, end - begin, chunk);
  };
#pragma unroll
  for (int i = 0; i < H::kAhead; ++i) load(first + i * kKeysOfBlock, chunks[i]);
  // Whole halves of the tile are absent where there are few queries.
  const auto has_half = [&](int half) { return w.first_query + 8 * half < w.queries; };
  const auto query_at = [&](int row) { return min(w.first_query + row, w.queries - 1); };
  Tables<H> tables;
  load_tables<H>(a, w, query_of(w, query_at(w.group)).row, tables);
  const int new_begin = (w.warp - kKeptWarps) * kKeys;
  const int new_count = has_kept ? 0 : static_cast<int>(a.rows) - new_begin;
  Tables<H> new_tables;
  if (new_count > 0) {
    load_tables<H>(a, w, new_begin + min(w.group, new_count - 1), new_tables);
  }
  wait_for_previous();
  begin_dependents();

  uint4 queries[2][H::kScorePacks] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (!has_half(half)) continue;
    const auto place = query_of(w, query_at(w.group + 8 * half));
    if (half > 0) load_tables<H>(a, w, place.row, tables);
    load_rotated<H>(a, w, place.row, place.head, a.query_norm, tables, queries[half]);
  }
  Running<H> running;
  const bool all_see_kept = a.window == 0 && (!a.seen || a.seen_rows <= a.rows);
  while (first < end) {
#pragma unroll
    for (int i = 0; i < H::kAhead; ++i, first += kKeysOfBlock) {
      if (first >= end) break;
      attend<H>(
          w, queries, chunks[i],
          [&](int row, int key) {
            return first + key < end && (all_see_kept || sees(a, w, query_at(row), first + key));
          },
          running);
      load(first + H::kAhead * kKeysOfBlock, chunks[i]);
    }
  }
  if (w.share == 0 && new_count > 0) {
    load_new_keys<H>(a, w, keys, values, new_begin, min(new_count, kKeys), new_tables, chunks[0]);
    attend<H>(
        w, queries, chunks[0],
        [&](int row, int key) {
          return key < new_count && sees(a, w, query_at(row), w.kept + new_begin + key);
        },
        running);
  }
  const auto workspace = workspace_of<H>(a, most_shares);
  join_warps<H>(a, w, running, workspace, shared);
  if (w.shares > 1) join_shares<H>(a, w, workspace, shared);
}

struct Plan {
  int tiles, shares;
};

Plan plan_of(const FewRowsAttention& a) {
  const int64_t queries = a.heads / a.key_heads * a.rows;
  const int64_t tiles = (queries + kQueries - 1) / kQueries;
  const int64_t most =
      std::clamp<int64_t>(kManyBlocks / (a.batch * a.key_heads * tiles), 1, kMostShares);
  const int64_t shares = (a.capacity + kWorthAShare - 1) / kWorthAShare;
  return {static_cast<int>(tiles), static_cast<int>(std::clamp<int64_t>(shares, 1, most))};
}

template <int kSize>
int launch_attention(const FewRowsAttention& a, cudaStream_t stream) {
  const auto plan = plan_of(a);
  const dim3 grid(static_cast<unsigned>(plan.shares),
                  static_cast<unsigned>(a.key_heads * plan.tiles), static_cast<unsigned>(a.batch));
  const int bytes = Shared<Head<kSize>>::bytes(a.heads / a.key_heads * a.rows);
  const auto kernel = attention_kernel<Head<kSize>>;
  const auto status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  return launch_dependent(kernel, grid, dim3(kThreads), bytes, stream, a, plan.tiles, plan.shares);
}

}  // namespace

int64_t few_rows_attention_workspace(const FewRowsAttention& a) {
  const auto plan = plan_of(a);
  const int64_t tiles = a.batch * a.key_heads * plan.tiles;
  return tiles * static_cast<int64_t>(sizeof(int)) +
         tiles * plan.shares * kQueries * (a.head_dim + 2) * static_cast<int64_t>(sizeof(float));
}

int few_rows_attention(const FewRowsAttention& a, CUstream_st* stream) {
  if (a.batch == 0 || a.rows == 0) return cudaSuccess;
  switch (a.head_dim) {
    case 32:
      return launch_attention<32>(a, stream);
    case 64:
      return launch_attention<64>(a, stream);
    case 96:
      return launch_attention<96>(a, stream);
    case 128:
      return launch_attention<128>(a, stream);
    case 256:
      return launch_attention<256>(a, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace outrider::cuda
