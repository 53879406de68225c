#include "outrider/nn/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "outrider/error.h"

namespace outrider::nn {
namespace {

constexpr int64_t kLeastCapacity = 64;

bool is_beginning(const std::vector<int64_t>& path) {
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i] != static_cast<int64_t>(i)) return false;
  }
  return true;
}

}  // namespace

KvCache::KvCache(int64_t num_layers, int64_t batch_size)
    : layers_(static_cast<size_t>(num_layers)), lengths_(static_cast<size_t>(batch_size), 0) {}

int64_t KvCache::longest() const {
  return lengths_.empty() ? 0 : *std::max_element(lengths_.begin(), lengths_.end());
}

bool KvCache::are_alike() const {
  return std::all_of(lengths_.begin(), lengths_.end(),
                     [&](int64_t length) { return length == lengths_.front(); });
}

// Values that were never written are multiplied by weights of zero: they must be finite.
void KvCache::reserve(Rows& layer, const at::Tensor& like, int64_t rows) const {
  const int64_t capacity = layer.key.defined() ? layer.key.size(2) : 0;
  if (rows <= capacity) return;
  const int64_t more = std::max({rows, 2 * capacity, kLeastCapacity});
  for (auto* tensor : {&layer.key, &layer.value}) {
    auto larger = at::zeros({like.size(0), like.size(1), more, like.size(3)}, like.options());
    if (tensor->defined()) larger.narrow(2, 0, capacity).copy_(*tensor);
    *tensor = larger;
  }
}

void KvCache::write(const at::Tensor& all, const at::Tensor& rows) const {
  const int64_t count = rows.size(2);
  if (are_alike()) {
    all.narrow(2, lengths_.front(), count).copy_(rows);
    return;
  }
  for (int64_t b = 0; b < batch_size(); ++b) {
    all[b].narrow(1, lengths_[static_cast<size_t>(b)], count).copy_(rows[b]);
  }
}

KvCache::Rows KvCache::append(int64_t layer, const at::Tensor& key, const at::Tensor& value) {
  if (key.size(0) != batch_size()) {
    throw Error(ErrorCode::kInternal, "KvCache: rows of another number of sequences");
  }
  auto& all = layers_.at(static_cast<size_t>(layer));
  const int64_t used = longest() + key.size(2);
  reserve(all, key, used);
  write(all.key, key);
  write(all.value, value);
  return {all.key.narrow(2, 0, used), all.value.narrow(2, 0, used)};
}

void KvCache::commit(const std::vector<int64_t>& counts) {
  for (size_t b = 0; b < lengths_.size(); ++b) lengths_[b] += counts.at(b);
}

void KvCache::move_path(size_t sequence, const std::vector<int64_t>& path) {
  if (is_beginning(path)) return;
  const int64_t length = lengths_[sequence], b = static_cast<int64_t>(sequence);
  const auto index = at::tensor(path, at::kLong).to(layers_.front().key.device()) + length;
  for (auto& layer : layers_) {
    for (auto* tensor : {&layer.key, &layer.value}) {
      const auto rows = (*tensor)[b];
      rows.narrow(1, length, static_cast<int64_t>(path.size())).copy_(rows.index_select(1, index));
    }
  }
}

void KvCache::commit_paths(const std::vector<std::vector<int64_t>>& paths) {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    move_path(b, paths.at(b));
    lengths_[b] += static_cast<int64_t>(paths[b].size());
  }
}

void KvCache::truncate(const std::vector<int64_t>& lengths) {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    if (lengths.at(b) > lengths_[b]) {
      throw Error(ErrorCode::kInternal, "KvCache: truncated to more rows than there are");
    }
  }
  lengths_ = lengths;
}

void KvCache::keep(const std::vector<int64_t>& sequences) {
  std::vector<int64_t> lengths;
  for (const int64_t b : sequences) lengths.push_back(lengths_.at(static_cast<size_t>(b)));
  for (auto& layer : layers_) {
    if (!layer.key.defined()) continue;
    const auto index = at::tensor(sequences, at::kLong).to(layer.key.device());
    layer = {layer.key.index_select(0, index), layer.value.index_select(0, index)};
  }
  lengths_ = std::move(lengths);
}

}  // namespace outrider::nn
