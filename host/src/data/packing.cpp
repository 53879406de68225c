#include "data/packing.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

namespace outrider {

PackedRows unpacked(const std::vector<int64_t>& conversations, std::vector<int64_t> lengths) {
  PackedRows all{{}, std::move(lengths)};
  for (const int64_t conversation : conversations) all.rows.push_back({conversation});
  return all;
}

PackedRows packed(const std::vector<int64_t>& conversations, const std::vector<int64_t>& lengths,
                  int64_t row_length) {
  std::vector<size_t> order(conversations.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return lengths[a] > lengths[b]; });
  PackedRows all;
  std::set<std::pair<int64_t, size_t>> room;  // tokens that a row has room for, and the row
  for (const size_t i : order) {
    auto tightest = room.lower_bound({lengths[i], 0});
    if (tightest == room.end()) {
      tightest = room.emplace(row_length, all.rows.size()).first;
      all.rows.emplace_back();
      all.lengths.push_back(0);
    }
    const auto [left, row] = *tightest;
    room.erase(tightest);
    room.emplace(left - lengths[i], row);
    all.rows[row].push_back(conversations[i]);
    all.lengths[row] += lengths[i];
  }
  return all;
}

}  // namespace outrider
