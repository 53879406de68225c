#include "report/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace outrider::report {
namespace {

/// "5e-04" → "5e-4".
std::string short_exponent(std::string text) {
  const auto e = text.find('e');
  if (e == std::string::npos) return text;
  auto digits = text.find_first_not_of("+-0", e + 1);
  if (digits == std::string::npos) digits = text.size() - 1;
  return text.substr(0, e + 1) + (text[e + 1] == '-' ? "-" : "") + text.substr(digits);
}

/// The least of 1, 2, 5 times a power of ten that is not below `size`.
double round_step(double size) {
  const double power = std::pow(10.0, std::floor(std::log10(size)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= size * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

}  // namespace

std::string number_text(double value) {
  const double size = std::abs(value);
  if (!std::isfinite(value)) return "not a number";
  if (size >= 999.5e6) return fmt::format("{:.4g}G", value / 1e9);
  if (size >= 999.5e3) return fmt::format("{:.4g}M", value / 1e6);
  if (size >= 9999.5) return fmt::format("{:.4g}k", value / 1e3);
  return short_exponent(fmt::format("{:.4g}", value));
}

Axis Axis::linear(double low, double high, int ticks) {
  if (!(high > low)) {
    const double margin = std::abs(low) * 0.1;
    low -= margin;
    high += margin > 0 ? margin : 1.0;
  }
  const double step = round_step((high - low) / ticks);
  const auto first = std::floor(low / step + 1e-9), last = std::ceil(high / step - 1e-9);
  Axis axis;
  axis.low_ = first * step;
  axis.high_ = last * step;
  for (double i = first; i <= last; ++i) axis.ticks_.push_back(i * step);
  return axis;
}

Axis Axis::logarithmic(double low, double high) {
  Axis axis;
  axis.is_logarithmic_ = true;
  const double first = std::floor(std::log10(low)), last = std::ceil(std::log10(high * 1.0001));
  axis.low_ = first;
  axis.high_ = last;
  for (double power = first; power <= last; ++power) axis.ticks_.push_back(std::pow(10, power));
  return axis;
}

double Axis::share(double value) const {
  return ((is_logarithmic_ ? std::log10(value) : value) - low_) / (high_ - low_);
}

}  // namespace outrider::report
