#include "data/batch_order.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <span>
#include <utility>

namespace outrider {
namespace {

/// Batches are cut from runs of this many, each sorted by length.
constexpr int64_t kWindowBatches = 64;

/// The finaliser of SplitMix64: neighbouring inputs give unrelated outputs.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

uint64_t epoch_seed(uint64_t seed, int64_t epoch) {
  return mix(mix(seed + 0x9E3779B97F4A7C15u) + static_cast<uint64_t>(epoch));
}

/// Uniform in [0, bound). Written out because std::uniform_int_distribution differs by library.
uint64_t below(uint64_t bound, std::mt19937_64& random) {
  const uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
  uint64_t x = random();
  while (x >= limit) x = random();
  return x % bound;
}

template <class T>
void shuffle(std::span<T> items, std::mt19937_64& random) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i, random)]);
}

}  // namespace

BatchOrder::BatchOrder(PackedRows rows, int64_t batch_size, uint64_t seed)
    : rows_(std::move(rows)), batch_size_(batch_size), seed_(seed) {}

int64_t BatchOrder::batches_per_epoch() const {
  return (static_cast<int64_t>(rows_.rows.size()) + batch_size_ - 1) / batch_size_;
}

std::vector<Batch> BatchOrder::epoch(int64_t number) const {
  std::mt19937_64 random(epoch_seed(seed_, number));
  std::vector<int64_t> order(rows_.rows.size());
  std::iota(order.begin(), order.end(), 0);
  shuffle(std::span(order), random);

  std::vector<Batch> batches;
  const auto window = static_cast<size_t>(kWindowBatches * batch_size_);
  for (size_t begin = 0; begin < order.size(); begin += window) {
    const auto items = std::span(order).subspan(begin, std::min(window, order.size() - begin));
    std::stable_sort(items.begin(), items.end(),
                     [&](int64_t a, int64_t b) { return rows_.lengths[a] > rows_.lengths[b]; });
    const size_t first_batch = batches.size();
    for (size_t i = 0; i < items.size(); ++i) {
      if (i % batch_size_ == 0) batches.emplace_back();
      batches.back().push_back(rows_.rows[items[i]]);
    }
    shuffle(std::span(batches).subspan(first_batch), random);
  }
  return batches;
}

BatchCursor::BatchCursor(BatchOrder order, DataPosition position)
    : order_(std::move(order)), position_(position) {}

std::vector<Batch> BatchCursor::next(int64_t count) {
  if (loaded_epoch_ != position_.epoch) {
    batches_ = order_.epoch(position_.epoch);
    loaded_epoch_ = position_.epoch;
  }
  const auto size = static_cast<int64_t>(batches_.size());
  const auto end = std::min(position_.batch + count, size);
  const std::vector<Batch> taken(batches_.begin() + position_.batch, batches_.begin() + end);
  position_ =
      end < size ? DataPosition{position_.epoch, end} : DataPosition{position_.epoch + 1, 0};
  return taken;
}

double BatchCursor::epochs() const {
  return static_cast<double>(position_.epoch) +
         static_cast<double>(position_.batch) / static_cast<double>(order_.batches_per_epoch());
}

}  // namespace outrider
