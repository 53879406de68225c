#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "outrider/api.h"

namespace outrider::nn {

/// Keys and values of all that a batch of sequences holds, for each layer. The sequences may differ
/// in length. New rows lie behind the end of their sequence and belong to it once they are
/// committed; those that are not are overwritten by the next ones, so that nothing is to be undone.
/// Slots stay where they are when sequences leave or others begin, and what was prepared for a
/// number of sequences waits until as many are here again.
class OUTRIDER_API KvCache {
 public:
  /// Heads, type and device are those of the first rows.
  KvCache(int64_t num_layers, int64_t batch_size);

  int64_t batch_size() const { return static_cast<int64_t>(lengths_.size()); }
  /// Committed rows of each sequence.
  const std::vector<int64_t>& lengths() const { return lengths_; }
  int64_t longest() const;
  /// Rows that fit into every layer without that slots move; 0 where a layer has none yet.
  int64_t capacity() const;
  /// Whether n new rows fit without that the slots of any layer move.
  bool has_room(int64_t new_rows) const;

  /// [B,Hkv,L,D] each, views; beyond a sequence's rows are finite values that mean nothing.
  struct Rows {
    at::Tensor key, value;
  };
  /// Writes n new rows [B,Hkv,n,D] behind the sequences' ends, in place of those that were not
  /// committed. All rows up to L = longest() + n.
  Rows append(int64_t layer, const at::Tensor& key, const at::Tensor& value);
  /// All slots of a layer, [B,Hkv,capacity,D], with room for n new rows; `like` [B,Hkv,…,D] has
  /// their heads and type. What is written behind the ends counts as new rows.
  Rows slots(int64_t layer, const at::Tensor& like, int64_t new_rows);
  /// Makes room for n new rows in every layer that has had some.
  void make_room(int64_t new_rows);
  /// Has room made for so many rows at once, when there is none for the next.
  void expect(int64_t rows) { expected_ = rows; }
  using Prepared = std::map<std::string, std::shared_ptr<void>>;
  /// What passes have prepared for these very slots and so many sequences, by name; dropped when
  /// slots move.
  Prepared& prepared() { return prepared_[batch_size()]; }
  /// One of these, a std::shared_ptr<T> of make() where it is not there yet; always the same T
  /// under a name.
  template <class T, class Make>
  T& prepared(const std::string& name, const Make& make) {
    auto& kept = prepared()[name];
    if (!kept) kept = make();
    return *static_cast<T*>(kept.get());
  }
  template <class T>
  T& prepared(const std::string& name) {
    return prepared<T>(name, [] { return std::make_shared<T>(); });
  }

  /// The first counts[b] of the new rows belong to sequence b.
  void commit(const std::vector<int64_t>& counts);
  /// These of the new rows, in ascending order, follow each other in sequence b, the others do not
  /// belong to it: a path through a tree.
  void commit_paths(const std::vector<std::vector<int64_t>>& paths);
  /// Forgets what is behind these lengths, none longer than it is.
  void truncate(const std::vector<int64_t>& lengths);
  /// Forgets all rows; so many sequences begin.
  void restart(int64_t sequences);
  /// The sequences that go on, in their new order; none twice.
  void keep(const std::vector<int64_t>& sequences);

 private:
  Rows first_of(const Rows& layer) const;
  void reserve(Rows& layer, const at::Tensor& like, int64_t rows);
  void write(const at::Tensor& all, const at::Tensor& rows);
  void move_rows(const at::Tensor& from, const at::Tensor& to);
  void move_paths(const std::vector<std::vector<int64_t>>& paths);
  const at::Tensor& new_slots(int64_t count, at::Device device);
  void set_lengths(std::vector<int64_t> lengths);
  bool are_alike() const;

  std::vector<Rows> layers_;  // [most B so far,Hkv,capacity,D], of which the first B are used
  std::map<int64_t, Prepared> prepared_;  // by number of sequences
  std::vector<int64_t> lengths_;
  int64_t expected_ = 0;
  at::Tensor new_slots_;  // [B,n]: of the new rows of a pass; undefined before its first layer
};

}  // namespace outrider::nn
