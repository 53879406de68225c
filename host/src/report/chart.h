#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "outrider/api.h"

namespace outrider::report {

struct Point {
  int64_t step;
  double value;
  std::optional<std::pair<double, double>> interval = {};  // where it may lie
};

/// Values over steps, in order; values that are not finite leave a gap.
struct Series {
  std::string name;
  std::vector<Point> points;
  std::string detail = {};    // in the legend, to hover over
  bool held_out = false;      // few values, drawn as dots on a dashed line
  std::optional<size_t> hue;  // of the page's colours; default: the series' number
};

struct Chart {
  std::string title, unit;
  std::vector<Series> series;
  bool starts_at_zero = false;
  bool may_be_logarithmic = false;  // drawn so where values differ more than thirty-fold
  std::optional<Point> mark;        // a value that stands out
  std::string mark_name;
  std::string steps = "optimizer step", step = "step";  // what the points are at
};

/// A figure with caption, axes, legend and a title to hover over at points; nothing where no series
/// has a point. Colours come from the page's style. Of long series the lowest and highest value of
/// each stretch are drawn, so that no spike is lost.
OUTRIDER_API std::string figure(const Chart& chart);

}  // namespace outrider::report
