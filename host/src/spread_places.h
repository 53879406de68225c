#pragma once

#include <cstddef>
#include <vector>

namespace outrider {

/// `count` places of a list of `size`, spread evenly over it; count ≤ size.
inline std::vector<size_t> spread_places(size_t size, size_t count) {
  std::vector<size_t> places;
  for (size_t i = 0; i < count; ++i) places.push_back(i * size / count);
  return places;
}

}  // namespace outrider
