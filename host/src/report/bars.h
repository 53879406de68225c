#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "outrider/api.h"

namespace outrider::report {

struct Bar {
  std::string name;
  double value;
  std::optional<std::pair<double, double>> interval = {};  // where it may lie
  size_t hue = 0;                                          // of the page's colours
};

struct BarChart {
  std::string title, unit;
  std::vector<Bar> bars;        // from top to bottom
  std::optional<double> level;  // marked over all of them
};

/// A figure with a horizontal bar for each value, which begins at 0; nothing where there are none.
/// Values that are not finite or below 0 have no bar.
OUTRIDER_API std::string figure(const BarChart& chart);

}  // namespace outrider::report
