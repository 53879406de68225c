#include "report/bars.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/axis.h"
#include "report/html.h"

namespace outrider::report {
namespace {

// Of the drawing, in its own units; the page scales it. Names stand above their bars.
constexpr double kBarsWidth = 400, kBarsEnd = 330, kRowHeight = 34, kBarHeight = 11, kScale = 24;
constexpr size_t kHues = 8, kMostOfName = 58;

/// From the left edge to a value, all bars fitting in.
class Lengths {
 public:
  explicit Lengths(const BarChart& chart) : axis_(Axis::linear(0, largest(chart), 4)) {}

  double of(double value) const { return std::max(0.0, axis_.share(value)) * kBarsEnd; }
  const Axis& axis() const { return axis_; }

 private:
  static double largest(const BarChart& chart) {
    double most = chart.level.value_or(0.0);
    for (const auto& bar : chart.bars) {
      const double end = bar.interval ? bar.interval->second : bar.value;
      if (std::isfinite(end)) most = std::max(most, end);
    }
    return most;
  }

  Axis axis_;
};

std::string interval_text(const Bar& bar) {
  if (!bar.interval) return {};
  return fmt::format(" ({} - {})", number_text(bar.interval->first),
                     number_text(bar.interval->second));
}

std::string row(const Lengths& lengths, const BarChart& chart, size_t index) {
  const auto& bar = chart.bars[index];
  const double top = kRowHeight * static_cast<double>(index) + 18;
  auto svg = fmt::format("<g class=\"c{}\">\n<text x=\"0\" y=\"{:g}\">{}</text>\n", bar.hue % kHues,
                         top - 4, escaped(bar.name, kMostOfName));
  if (!std::isfinite(bar.value)) return svg + "</g>\n";
  svg += fmt::format(
      "<path class=\"bar\" d=\"M0 {:g}h{:.1f}v{:g}H0z\"><title>{}: {} {}{}</title></path>\n", top,
      lengths.of(bar.value), kBarHeight, escaped(bar.name), number_text(bar.value),
      escaped(chart.unit), interval_text(bar));
  double end = lengths.of(bar.value);
  if (bar.interval && std::isfinite(bar.interval->first + bar.interval->second)) {
    end = std::max(end, lengths.of(bar.interval->second));
    svg += fmt::format("<path class=\"span\" d=\"M{:.1f} {:g}H{:.1f}\"/>\n",
                       lengths.of(bar.interval->first), top + kBarHeight / 2,
                       lengths.of(bar.interval->second));
  }
  return svg + fmt::format("<text x=\"{:.1f}\" y=\"{:g}\">{}</text>\n</g>\n", end + 6,
                           top + kBarHeight - 1, number_text(bar.value));
}

std::string scale(const Lengths& lengths, double bottom) {
  auto svg = fmt::format("<path class=\"axis\" d=\"M0 {:g}H{:g}\"/>\n", bottom, kBarsEnd);
  for (const double tick : lengths.axis().ticks()) {
    if (tick == 0) continue;
    svg += fmt::format("<text class=\"x\" x=\"{:.1f}\" y=\"{:g}\">{}</text>\n", lengths.of(tick),
                       bottom + 17, number_text(tick));
  }
  return svg;
}

}  // namespace

std::string figure(const BarChart& chart) {
  if (chart.bars.empty()) return {};
  const Lengths lengths(chart);
  const double bottom = kRowHeight * static_cast<double>(chart.bars.size()) + 2;
  auto svg = fmt::format(
      "<svg class=\"chart\" viewBox=\"0 0 {:g} {:g}\" role=\"img\" aria-label=\"{}\">\n",
      kBarsWidth, bottom + kScale, escaped(chart.title));
  for (size_t i = 0; i < chart.bars.size(); ++i) svg += row(lengths, chart, i);
  if (chart.level) {
    svg += fmt::format("<path class=\"axis\" d=\"M{:.1f} 0V{:g}\"/>\n", lengths.of(*chart.level),
                       bottom);
  }
  return fmt::format(
      "<figure>\n<figcaption>{} <small>{}</small></figcaption>\n{}{}</svg>\n</figure>\n",
      escaped(chart.title), escaped(chart.unit), svg, scale(lengths, bottom));
}

}  // namespace outrider::report
