#include "outrider/nn/kv_cache.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "outrider/error.h"
#include "outrider/kernels/recorded_work.h"

namespace outrider::nn {
namespace {

constexpr int64_t kLeastCapacity = 64;

bool is_beginning(const std::vector<int64_t>& path) {
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i] != static_cast<int64_t>(i)) return false;
  }
  return true;
}

// [B,H,L,D] → [B,L,H,D], a view.
at::Tensor by_slot(const at::Tensor& rows) { return rows.transpose(1, 2); }

// [B,1], for slots [B,n].
at::Tensor sequence_index(const at::Tensor& slots) {
  return at::arange(slots.size(0), slots.options()).unsqueeze(1);
}

}  // namespace

KvCache::KvCache(int64_t num_layers, int64_t batch_size)
    : layers_(static_cast<size_t>(num_layers)), lengths_(static_cast<size_t>(batch_size), 0) {}

int64_t KvCache::longest() const {
  return lengths_.empty() ? 0 : *std::max_element(lengths_.begin(), lengths_.end());
}

int64_t KvCache::capacity() const {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const auto& layer : layers_) {
    least = std::min(least, layer.key.defined() ? layer.key.size(2) : 0);
  }
  return layers_.empty() ? 0 : least;
}

bool KvCache::has_room(int64_t new_rows) const { return capacity() >= longest() + new_rows; }

bool KvCache::are_alike() const {
  return std::all_of(lengths_.begin(), lengths_.end(),
                     [&](int64_t length) { return length == lengths_.front(); });
}

KvCache::Rows KvCache::first_of(const Rows& layer) const {
  return {layer.key.narrow(0, 0, batch_size()), layer.value.narrow(0, 0, batch_size())};
}

// Values that were never written are multiplied by weights of zero: they must be finite.
void KvCache::reserve(Rows& layer, const at::Tensor& like, int64_t rows) {
  const int64_t capacity = layer.key.defined() ? layer.key.size(2) : 0;
  if (rows <= capacity) return;
  prepared_.clear();
  const int64_t more = std::max({rows, 2 * capacity, kLeastCapacity, expected_});
  const int64_t sequences = layer.key.defined() ? layer.key.size(0) : batch_size();
  for (auto* tensor : {&layer.key, &layer.value}) {
    auto larger = at::zeros({sequences, like.size(1), more, like.size(3)}, like.options());
    if (tensor->defined()) larger.narrow(2, 0, capacity).copy_(*tensor);
    *tensor = larger;
  }
}

const at::Tensor& KvCache::new_slots(int64_t count, at::Device device) {
  if (!new_slots_.defined() || new_slots_.size(1) != count) {
    new_slots_ = (at::tensor(lengths_, at::kLong).unsqueeze(1) + at::arange(count)).to(device);
  }
  return new_slots_;
}

void KvCache::write(const at::Tensor& all, const at::Tensor& rows) {
  const int64_t count = rows.size(2);
  if (are_alike()) {
    all.narrow(2, lengths_.front(), count).copy_(rows);
    return;
  }
  const auto& slots = new_slots(count, rows.device());
  by_slot(all).index_put_({sequence_index(slots), slots}, by_slot(rows));
}

KvCache::Rows KvCache::slots(int64_t layer, const at::Tensor& like, int64_t new_rows) {
  auto& all = layers_.at(static_cast<size_t>(layer));
  reserve(all, like, longest() + new_rows);
  return first_of(all);
}

void KvCache::make_room(int64_t new_rows) {
  for (auto& layer : layers_) {
    if (layer.key.defined()) reserve(layer, layer.key, longest() + new_rows);
  }
}

KvCache::Rows KvCache::append(int64_t layer, const at::Tensor& key, const at::Tensor& value) {
  if (key.size(0) != batch_size()) {
    throw Error(ErrorCode::kInternal, "KvCache: rows of another number of sequences");
  }
  const auto& all = slots(layer, key, key.size(2));
  const int64_t used = longest() + key.size(2);
  write(all.key, key);
  write(all.value, value);
  return {all.key.narrow(2, 0, used), all.value.narrow(2, 0, used)};
}

void KvCache::set_lengths(std::vector<int64_t> lengths) {
  lengths_ = std::move(lengths);
  new_slots_.reset();
}

void KvCache::commit(const std::vector<int64_t>& counts) {
  auto lengths = lengths_;
  for (size_t b = 0; b < lengths.size(); ++b) lengths[b] += counts.at(b);
  set_lengths(std::move(lengths));
}

// What is behind a shorter path stays where it is: it belongs to nobody.
void KvCache::move_paths(const std::vector<std::vector<int64_t>>& paths) {
  const auto longest_path = std::max_element(
      paths.begin(), paths.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
  const auto width = static_cast<int64_t>(longest_path->size());
  auto from = at::arange(width).repeat({batch_size(), 1});
  for (int64_t b = 0; b < batch_size(); ++b) {
    const auto& path = paths[static_cast<size_t>(b)];
    std::copy(path.begin(), path.end(), from.mutable_data_ptr<int64_t>() + b * width);
  }
  const auto begin = at::tensor(lengths_, at::kLong).unsqueeze(1);
  const auto device = layers_.front().key.device();
  auto& work = prepared<kernels::RecordedWork>(fmt::format("paths of {} rows", width));
  work.run({(begin + from).to(device), (begin + at::arange(width)).to(device)},
           [this](const std::vector<at::Tensor>& inputs) {
             move_rows(inputs[0], inputs[1]);
             return std::vector<at::Tensor>();
           });
}

// Of each sequence, slots [B,n].
void KvCache::move_rows(const at::Tensor& from, const at::Tensor& to) {
  const auto sequence = sequence_index(to);
  for (auto& layer : layers_) {
    for (auto* all : {&layer.key, &layer.value}) {
      const auto rows = by_slot(*all);
      rows.index_put_({sequence, to}, rows.index({sequence, from}));
    }
  }
}

void KvCache::commit_paths(const std::vector<std::vector<int64_t>>& paths) {
  if (!std::all_of(paths.begin(), paths.end(), is_beginning)) move_paths(paths);
  std::vector<int64_t> counts;
  for (const auto& path : paths) counts.push_back(static_cast<int64_t>(path.size()));
  commit(counts);
}

void KvCache::truncate(const std::vector<int64_t>& lengths) {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    if (lengths.at(b) > lengths_[b]) {
      throw Error(ErrorCode::kInternal, "KvCache: truncated to more rows than there are");
    }
  }
  set_lengths(lengths);
}

void KvCache::restart(int64_t sequences) {
  set_lengths(std::vector<int64_t>(static_cast<size_t>(sequences), 0));
  for (auto& layer : layers_) {
    if (!layer.key.defined() || layer.key.size(0) >= sequences) continue;
    layer = {};
    prepared_.clear();
  }
}

void KvCache::keep(const std::vector<int64_t>& sequences) {
  const int64_t used = longest();
  std::vector<int64_t> lengths;
  for (const int64_t b : sequences) lengths.push_back(lengths_.at(static_cast<size_t>(b)));
  set_lengths(std::move(lengths));
  auto index = at::tensor(sequences, at::kLong);
  for (const auto& layer : layers_) {
    if (!layer.key.defined()) continue;
    index = index.to(layer.key.device());
    for (const auto& all : {layer.key, layer.value}) {
      const auto rows = all.narrow(2, 0, used);
      rows.narrow(0, 0, batch_size()).copy_(rows.index_select(0, index));
    }
  }
}

}  // namespace outrider::nn
