#include "report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/axis.h"
#include "report/html.h"

namespace outrider::report {
namespace {

// Of the drawing, in its own units; the page scales it.
constexpr double kWidth = 400, kHeight = 230, kLeft = 50, kRight = 12, kTop = 10, kBottom = 40;
constexpr size_t kMostPoints = 400;  // of a line
constexpr size_t kMostTitles = 100;  // of a line
constexpr size_t kColours = 8;

struct Frame {
  Axis x, y;

  double left_of(double step) const { return kLeft + x.share(step) * (kWidth - kLeft - kRight); }
  double top_of(double value) const {
    return kTop + (1 - y.share(value)) * (kHeight - kTop - kBottom);
  }
};

std::vector<Point> finite_points(const Chart& chart) {
  std::vector<Point> all;
  for (const auto& series : chart.series) {
    for (const auto& point : series.points) {
      if (!std::isfinite(point.value)) continue;
      all.push_back(point);
      if (!point.interval) continue;
      for (const double end : {point.interval->first, point.interval->second}) {
        if (std::isfinite(end)) all.push_back({point.step, end});
      }
    }
  }
  if (chart.mark) all.push_back(*chart.mark);
  return all;
}

Frame frame_of(const Chart& chart, const std::vector<Point>& points) {
  const auto by_value = [](const Point& a, const Point& b) { return a.value < b.value; };
  const auto by_step = [](const Point& a, const Point& b) { return a.step < b.step; };
  const auto [low, high] = std::minmax_element(points.begin(), points.end(), by_value);
  const auto last = std::max_element(points.begin(), points.end(), by_step);
  const auto steps = Axis::linear(0, static_cast<double>(std::max<int64_t>(last->step, 1)), 6);
  if (chart.may_be_logarithmic && low->value > 0 && high->value > 30 * low->value) {
    return {steps, Axis::logarithmic(low->value, high->value)};
  }
  const double from = chart.starts_at_zero ? std::min(0.0, low->value) : low->value;
  return {steps, Axis::linear(from, high->value, 5)};
}

std::string grid(const Frame& frame, const std::string& steps) {
  std::string svg;
  for (const double tick : frame.y.ticks()) {
    const double y = frame.top_of(tick);
    svg += fmt::format("<path class=\"grid\" d=\"M{:g} {:.1f}H{:g}\"/>", kLeft, y, kWidth - kRight);
    svg += fmt::format("<text class=\"y\" x=\"{:g}\" y=\"{:.1f}\">{}</text>\n", kLeft - 6, y + 4,
                       number_text(tick));
  }
  for (const double tick : frame.x.ticks()) {
    if (tick != std::floor(tick)) continue;
    svg += fmt::format("<text class=\"x\" x=\"{:.1f}\" y=\"{:g}\">{}</text>\n", frame.left_of(tick),
                       kHeight - kBottom + 17, number_text(tick));
  }
  svg += fmt::format("<path class=\"axis\" d=\"M{:g} {:g}H{:g}\"/>", kLeft, kHeight - kBottom,
                     kWidth - kRight);
  return svg + fmt::format("<text class=\"x\" x=\"{:g}\" y=\"{:g}\">{}</text>\n",
                           (kLeft + kWidth - kRight) / 2, kHeight - 5, escaped(steps));
}

/// The lowest and highest point of each of equally long stretches.
std::vector<Point> thinned(const std::vector<Point>& points) {
  if (points.size() <= kMostPoints) return points;
  const auto by_value = [](const Point& a, const Point& b) { return a.value < b.value; };
  const size_t stretches = kMostPoints / 2;
  std::vector<Point> kept;
  for (size_t i = 0; i < stretches; ++i) {
    const auto begin = points.begin() + static_cast<int64_t>(i * points.size() / stretches);
    const auto end = points.begin() + static_cast<int64_t>((i + 1) * points.size() / stretches);
    const auto [low, high] = std::minmax_element(begin, end, by_value);
    kept.push_back(*std::min(low, high));
    if (low != high) kept.push_back(*std::max(low, high));
  }
  return kept;
}

std::string line(const Frame& frame, const std::vector<Point>& points) {
  std::string path;
  bool goes_on = false;
  for (const auto& point : points) {
    if (!std::isfinite(point.value)) {
      goes_on = false;
      continue;
    }
    path += fmt::format("{}{:.1f} {:.1f}", goes_on ? "L" : "M",
                        frame.left_of(static_cast<double>(point.step)), frame.top_of(point.value));
    goes_on = true;
  }
  return path;
}

std::string dot(const Frame& frame, const Point& point, const char* style, double radius,
                const std::string& title) {
  if (!std::isfinite(point.value)) return {};
  return fmt::format(
      "<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:g}\"><title>{}</title></circle>\n",
      style, frame.left_of(static_cast<double>(point.step)), frame.top_of(point.value), radius,
      title);
}

std::string span_text(const Point& point) {
  if (!point.interval) return {};
  return fmt::format(" ({} - {})", number_text(point.interval->first),
                     number_text(point.interval->second));
}

std::string span(const Frame& frame, const Point& point) {
  if (!point.interval || !std::isfinite(point.interval->first + point.interval->second)) return {};
  return fmt::format("<path class=\"line\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>\n",
                     frame.left_of(static_cast<double>(point.step)),
                     frame.top_of(point.interval->first), frame.top_of(point.interval->second));
}

size_t hue(const Chart& chart, size_t index) {
  return chart.series[index].hue.value_or(index) % kColours;
}

std::string drawn(const Frame& frame, const Chart& chart, size_t index) {
  const auto& series = chart.series[index];
  const auto points = thinned(series.points);
  std::string svg =
      fmt::format("<g class=\"c{}\">\n<path class=\"{}\" d=\"{}\"/>\n", hue(chart, index),
                  series.held_out ? "line held-out" : "line", line(frame, points));
  const size_t stride = (points.size() + kMostTitles - 1) / kMostTitles;
  // A line of a single point would not be seen.
  const bool shows_dots = series.held_out || points.size() == 1;
  for (size_t i = 0; i < points.size(); i += std::max<size_t>(stride, 1)) {
    const auto title =
        fmt::format("{}, {} {}: {} {}{}", escaped(series.name), escaped(chart.step), points[i].step,
                    number_text(points[i].value), escaped(chart.unit), span_text(points[i]));
    svg += span(frame, points[i]);
    svg += dot(frame, points[i], shows_dots ? "dot" : "hover", shows_dots ? 2.5 : 6, title);
  }
  return svg + "</g>\n";
}

std::string legend(const Chart& chart) {
  if (chart.series.size() == 1 && !chart.mark) return {};
  std::string html = "<p class=\"legend\">";
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const auto& series = chart.series[i];
    if (series.points.empty()) continue;
    html += fmt::format(
        "<span class=\"c{}\"{}><svg viewBox=\"0 0 22 8\" aria-hidden=\"true\"><path "
        "class=\"line{}\" "
        "d=\"M1 4H21\"/>{}</svg>{}</span>\n",
        hue(chart, i),
        series.detail.empty() ? "" : fmt::format(" title=\"{}\"", escaped(series.detail)),
        series.held_out ? " held-out" : "",
        series.held_out ? "<circle class=\"dot\" cx=\"11\" cy=\"4\" r=\"2.5\"/>" : "",
        escaped(series.name));
  }
  if (chart.mark) html += fmt::format("<span>◎ {}</span>\n", escaped(chart.mark_name));
  return html + "</p>\n";
}

}  // namespace

std::string figure(const Chart& chart) {
  const auto points = finite_points(chart);
  if (points.empty()) return {};
  const auto frame = frame_of(chart, points);
  auto svg = fmt::format(
      "<svg class=\"chart\" viewBox=\"0 0 {:g} {:g}\" role=\"img\" aria-label=\"{}\">\n", kWidth,
      kHeight, escaped(chart.title));
  svg += grid(frame, chart.steps);
  for (size_t i = 0; i < chart.series.size(); ++i) svg += drawn(frame, chart, i);
  if (chart.mark) {
    svg += dot(frame, *chart.mark, "mark", 5.5,
               fmt::format("{}: {}", escaped(chart.mark_name), number_text(chart.mark->value)));
  }
  return fmt::format(
      "<figure>\n<figcaption>{}{}</figcaption>\n{}</svg>\n{}</figure>\n", escaped(chart.title),
      chart.unit.empty() ? "" : fmt::format(" <small>{}</small>", escaped(chart.unit)), svg,
      legend(chart));
}

}  // namespace outrider::report
