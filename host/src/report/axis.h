#pragma once

#include <string>
#include <vector>

#include "outrider/api.h"

namespace outrider::report {

/// A number as people write it: about four digits, "12.3k", "5e-5".
OUTRIDER_API std::string number_text(double value);

/// One direction of a chart: which values it spans, where each lies, and the round ones to label.
class OUTRIDER_API Axis {
 public:
  /// Spans low … high, widened to round values; a span of one value is given some width.
  static Axis linear(double low, double high, int ticks);
  /// The same in logarithms; both ends must be above 0.
  static Axis logarithmic(double low, double high);

  /// 0 at the low end, 1 at the high one.
  double share(double value) const;
  const std::vector<double>& ticks() const { return ticks_; }

 private:
  double low_ = 0, high_ = 1;
  bool is_logarithmic_ = false;
  std::vector<double> ticks_;
};

}  // namespace outrider::report
