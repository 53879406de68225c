#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "kernels/cuda/diagonal_attention.h"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"
#include "outrider/kernels/device_whole_packs.cuh"

// A group of lanes, a power of two of them, has one position of one key head: a lane holds a pack
// of each vector (or several, of long ones), and the group's queries come one after another, which
// finds the keys in the cache.

namespace outrider::cuda {
namespace {

using kernels::Accumulate;
using kernels::Pack;
using kernels::Packs;

constexpr int kThreads = 128;
constexpr int64_t kScratchBytes = 48 << 10;
constexpr unsigned kWholeWarp = 0xffffffffu;

/// How a block is divided: lanes for one position, and positions at a time.
struct Division {
  int lanes, groups;
};

template <class T>
Division division_of(const DiagonalAttentionShape& shape) {
  int lanes = 1;
  while (lanes < 32 && lanes * Pack<T>::kSize < shape.head_dim) lanes *= 2;
  return {lanes, kThreads / lanes};
}

/// Where a group of lanes works.
struct Place {
  int64_t batch, kv_head, position;
  int lane, group;  // within the group; within the block
  bool exists;
};

__device__ Place place_of(const DiagonalAttentionShape& shape, Division division) {
  const int lane = static_cast<int>(threadIdx.x) % division.lanes;
  const int group = static_cast<int>(threadIdx.x) / division.lanes;
  const int64_t count = shape.batch * shape.length * shape.kv_heads;
  const int64_t item = int64_t{blockIdx.x} * division.groups + group;
  const int64_t index = min(item, count - 1);  // all lanes take part in the reductions
  const int64_t row = index / shape.kv_heads;
  return {row / shape.length, index % shape.kv_heads, row % shape.length, lane, group,
          item < count};
}

template <class T>
__device__ T* vector_at(const HeadVectors& x, const Place& place, int64_t head) {
  const auto* data = static_cast<const T*>(x.data) + place.batch * x.batch_stride +
                     head * x.head_stride + place.position * x.position_stride;
  return const_cast<T*>(data);
}

/// A lane's share of one vector.
template <class T, int kParts>
struct Share {
  Pack<T> parts[kParts];

  template <class Each>
  __device__ void for_each(Each each) {
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
#pragma unroll
      for (int i = 0; i < Pack<T>::kSize; ++i) each(parts[p].x[i], p, i);
    }
  }
};

template <class T>
__device__ int64_t begin_of(const Place& place, int part, int lanes) {
  return (int64_t{part} * lanes + place.lane) * Pack<T>::kSize;
}

template <class T, int kParts, bool kWhole>
__device__ Share<T, kParts> load_share(const T* vector, const Place& place, int lanes,
                                       int64_t size) {
  Share<T, kParts> share;
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    share.parts[p] = Packs<kWhole>::load(vector, begin_of<T>(place, p, lanes), size);
  }
  return share;
}

template <class T, int kParts, bool kWhole>
__device__ void store_share(T* vector, const Share<T, kParts>& share, const Place& place, int lanes,
                            int64_t size) {
  if (!place.exists) return;
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    Packs<kWhole>::store(vector, begin_of<T>(place, p, lanes), size, share.parts[p]);
  }
}

template <class Value>
__device__ Value sum_over_group(Value value, int lanes) {
  for (int mask = lanes / 2; mask > 0; mask /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, mask);
  }
  return value;
}

template <class T, int kParts>
__device__ Accumulate<T> dot(Share<T, kParts>& a, Share<T, kParts>& b, int lanes) {
  Accumulate<T> sum = 0;
  a.for_each([&](Accumulate<T> x, int p, int i) { sum += x * b.parts[p].x[i]; });
  return sum_over_group(sum, lanes);
}

template <class T, int kParts>
__device__ void add_scaled(Share<T, kParts>& sum, Accumulate<T> factor, const Share<T, kParts>& x) {
  sum.for_each([&](Accumulate<T>& y, int p, int i) { y += factor * x.parts[p].x[i]; });
}

__device__ bool is_masked(const bool* mask, const DiagonalAttentionShape& shape,
                          const Place& place) {
  return mask && !mask[place.batch * shape.length + place.position];
}

__device__ int64_t lse_index(const DiagonalAttentionShape& shape, const Place& place,
                             int64_t head) {
  return (place.batch * shape.heads + head) * shape.length + place.position;
}

/// Softmax-weighted sum that grows by one key at a time.
template <class T, int kParts>
struct Merged {
  using Number = Accumulate<T>;
  Number largest, total;  // of the scores; of their exponentials relative to it
  Share<T, kParts> sum;

  __device__ void add(Number score, const Share<T, kParts>& value) {
    const Number limit = max(largest, score);
    if (limit == -INFINITY) return;
    const Number kept = exp(largest - limit), weight = exp(score - limit);
    sum.for_each([&](Number& y, int p, int i) { y = y * kept + weight * value.parts[p].x[i]; });
    total = total * kept + weight;
    largest = limit;
  }

  __device__ Number finish() {
    const Number scale = total > 0 ? 1 / total : Number{0};
    sum.for_each([&](Number& y, int, int) { y *= scale; });
    return total > 0 ? largest + log(total) : static_cast<Number>(-INFINITY);
  }
};

template <class T, int kParts, bool kWhole>
__global__ void __launch_bounds__(kThreads)
    merge_kernel(DiagonalAttentionShape shape, Division division, HeadVectors query,
                 Diagonals diagonals, HeadVectors output, Accumulate<T>* lse) {
  using Number = Accumulate<T>;
  const auto place = place_of(shape, division);
  const auto load = [&](const HeadVectors& x, int64_t head) {
    return load_share<T, kParts, kWhole>(vector_at<T>(x, place, head), place, division.lanes,
                                         shape.head_dim);
  };
  const int64_t group = shape.heads / shape.kv_heads;
  for (int64_t head = place.kv_head * group; head < (place.kv_head + 1) * group; ++head) {
    auto q = load(query, head);
    const int64_t index = lse_index(shape, place, head);
    const Number before = lse[index];
    Merged<T, kParts> merged{before, before == -INFINITY ? Number{0} : Number{1},
                             load(output, head)};
    for (int j = 0; j < diagonals.count; ++j) {
      const auto& diagonal = diagonals.at[j];
      auto key = load(diagonal.key, place.kv_head);
      const Number score = dot(q, key, division.lanes) * static_cast<Number>(shape.scale);
      merged.add(is_masked(diagonal.mask, shape, place) ? -INFINITY : score,
                 load(diagonal.value, place.kv_head));
    }
    const Number after = merged.finish();
    store_share<T, kParts, kWhole>(vector_at<T>(output, place, head), merged.sum, place,
                                   division.lanes, shape.head_dim);
    __syncwarp();  // a lane may not write what another still reads
    if (place.exists && place.lane == 0) lse[index] = after;
  }
}

/// What one key means to one query: its weight, and the gradient of its score.
template <class Number>
struct KeyWeight {
  Number weight, d_score;
};

template <class T, int kParts, bool kWhole>
__global__ void __launch_bounds__(kThreads)
    merge_backward_kernel(DiagonalAttentionShape shape, Division division, HeadVectors grad,
                          HeadVectors query, Diagonals diagonals, HeadVectors output,
                          const Accumulate<T>* lse, HeadVectors d_query,
                          DiagonalGradients gradients) {
  using Number = Accumulate<T>;
  extern __shared__ __align__(16) unsigned char scratch[];
  const auto place = place_of(shape, division);
  const auto load = [&](const HeadVectors& x, int64_t head) {
    return load_share<T, kParts, kWhole>(vector_at<T>(x, place, head), place, division.lanes,
                                         shape.head_dim);
  };
  const auto store = [&](const HeadVectors& x, int64_t head, const Share<T, kParts>& share) {
    store_share<T, kParts, kWhole>(vector_at<T>(x, place, head), share, place, division.lanes,
                                   shape.head_dim);
  };
  const int64_t group = shape.heads / shape.kv_heads, first = place.kv_head * group;
  const int count = diagonals.count;
  auto* weights = reinterpret_cast<KeyWeight<Number>*>(scratch) + place.group * group * count;
  for (int64_t g = 0; g < group; ++g) {
    auto q = load(query, first + g), d_out = load(grad, first + g), out = load(output, first + g);
    auto dq = load(d_query, first + g);
    const Number delta = dot(d_out, out, division.lanes);
    const Number log_sum = lse[lse_index(shape, place, first + g)];
    for (int j = 0; j < count; ++j) {
      const auto& diagonal = diagonals.at[j];
      auto key = load(diagonal.key, place.kv_head), value = load(diagonal.value, place.kv_head);
      const Number scale = static_cast<Number>(shape.scale);
      const Number score = dot(q, key, division.lanes) * scale;
      const Number d_weight = dot(d_out, value, division.lanes);
      const bool unseen = log_sum == -INFINITY || is_masked(diagonal.mask, shape, place);
      const Number weight = unseen ? Number{0} : exp(score - log_sum);
      const Number d_score = weight * (d_weight - delta) * scale;
      add_scaled(dq, d_score, key);
      if (place.lane == 0) weights[g * count + j] = {weight, d_score};
    }
    store(d_query, first + g, dq);
  }
  __syncwarp();
  for (int j = 0; j < count; ++j) {
    Share<T, kParts> d_key{}, d_value{};
    for (int64_t g = 0; g < group; ++g) {
      const auto [weight, d_score] = weights[g * count + j];
      add_scaled(d_key, d_score, load(query, first + g));
      add_scaled(d_value, weight, load(grad, first + g));
    }
    store(gradients.at[j].key, place.kv_head, d_key);
    store(gradients.at[j].value, place.kv_head, d_value);
  }
}

template <class T>
int64_t scratch_bytes(const DiagonalAttentionShape& shape, int64_t diagonals) {
  return division_of<T>(shape).groups * (shape.heads / shape.kv_heads) * diagonals *
         static_cast<int64_t>(sizeof(KeyWeight<Accumulate<T>>));
}

/// Whether a vector is whole packs wherever it lies.
template <class T>
bool are_whole(int64_t head_dim, const HeadVectors& x) {
  return kernels::are_whole_packs<T>({head_dim, x.batch_stride, x.head_stride, x.position_stride},
                                     static_cast<const T*>(x.data));
}

/// Those of all diagonals, and some besides.
template <class T, class Diagonal>
bool are_whole(const DiagonalAttentionShape& shape, const Diagonal* diagonals, int count,
               std::initializer_list<HeadVectors> others) {
  const auto is_whole = [&](const HeadVectors& x) { return are_whole<T>(shape.head_dim, x); };
  return std::all_of(others.begin(), others.end(), is_whole) &&
         std::all_of(diagonals, diagonals + count, [&](const Diagonal& diagonal) {
           return is_whole(diagonal.key) && is_whole(diagonal.value);
         });
}

/// call(constant packs that a lane holds of a vector of T)
template <class T, class Call>
int with_parts(const DiagonalAttentionShape& shape, Call call) {
  const int64_t covered = 32 * Pack<T>::kSize;
  if (shape.head_dim <= covered) return call(std::integral_constant<int, 1>{});
  if (shape.head_dim <= 2 * covered) return call(std::integral_constant<int, 2>{});
  return call(std::integral_constant<int, 4>{});
}

template <class T>
dim3 grid_of(const DiagonalAttentionShape& shape) {
  const int64_t groups = division_of<T>(shape).groups;
  const int64_t items = shape.batch * shape.length * shape.kv_heads;
  return dim3(static_cast<unsigned>((items + groups - 1) / groups));
}

}  // namespace

int diagonals_per_launch(const DiagonalAttentionShape& shape) {
  return kernels::with_type(shape.type, [&]<class T>(T) {
    const int64_t room = kScratchBytes / scratch_bytes<T>(shape, 1);
    return static_cast<int>(std::min<int64_t>(room, kMaxDiagonals));
  });
}

int merge_diagonals(const DiagonalAttentionShape& shape, const HeadVectors& query,
                    const Diagonals& diagonals, const HeadVectors& output, void* lse,
                    CUstream_st* stream) {
  return kernels::with_type(shape.type, [&]<class T>(T) {
    const bool whole = are_whole<T>(shape, diagonals.at, diagonals.count, {query, output});
    return with_parts<T>(shape, [&]<int kParts>(std::integral_constant<int, kParts>) -> int {
      const auto kernel = whole ? merge_kernel<T, kParts, true> : merge_kernel<T, kParts, false>;
      return kernels::launch(kernel, grid_of<T>(shape), dim3(kThreads), 0, stream, shape,
                             division_of<T>(shape), query, diagonals, output,
                             static_cast<Accumulate<T>*>(lse));
    });
  });
}

int merge_diagonals_backward(const DiagonalAttentionShape& shape, const HeadVectors& grad,
                             const HeadVectors& query, const Diagonals& diagonals,
                             const HeadVectors& output, const void* lse, const HeadVectors& d_query,
                             const DiagonalGradients& gradients, CUstream_st* stream) {
  return kernels::with_type(shape.type, [&]<class T>(T) {
    const bool whole =
        are_whole<T>(shape, diagonals.at, diagonals.count, {grad, query, output, d_query}) &&
        are_whole<T>(shape, gradients.at, diagonals.count, {});
    return with_parts<T>(shape, [&]<int kParts>(std::integral_constant<int, kParts>) -> int {
      const auto kernel =
          whole ? merge_backward_kernel<T, kParts, true> : merge_backward_kernel<T, kParts, false>;
      return kernels::launch(kernel, grid_of<T>(shape), dim3(kThreads),
                             static_cast<size_t>(scratch_bytes<T>(shape, diagonals.count)), stream,
                             shape, division_of<T>(shape), grad, query, diagonals, output,
                             static_cast<const Accumulate<T>*>(lse), d_query, gradients);
    });
  });
}

}  // namespace outrider::cuda
