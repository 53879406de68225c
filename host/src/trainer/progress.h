#pragma once

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>

#include "outrider/api.h"

namespace outrider {

/// What a progress line says. `share` of the run is done, in [0,1].
struct ProgressReport {
  std::string unit = "step";
  int64_t step = 0, total_steps = 0;  // total_steps = 0: the run has a time limit only
  double share = 0;
  std::optional<double> eta_seconds, loss, held_out_loss, accuracy, tokens_per_second;
};

/// "3:07", "1:00:07".
OUTRIDER_API std::string format_duration(double seconds);
/// "950", "12.3k", "1.2M".
OUTRIDER_API std::string format_count(double count);
/// "step 120/1000  12%  loss 2.3456  held out 2.4567  accuracy 0.612  12.3k tokens/s  ETA 3:07"
OUTRIDER_API std::string format_progress(const ProgressReport& report);
/// Columns of the terminal that a descriptor is connected to, 0 if it is none.
OUTRIDER_API int terminal_width(int descriptor);

/// Shows how far a run is: on a terminal (`width` > 0) one line that is redrawn, elsewhere a line
/// per logged step.
class OUTRIDER_API ProgressLine {
 public:
  ProgressLine(std::ostream& out, int width) : out_(out), width_(width) {}
  ~ProgressLine();

  /// After every step.
  void update(const ProgressReport& report);
  /// After a step that was logged.
  void logged(const ProgressReport& report);
  /// A line of its own.
  void note(const std::string& text);

 private:
  void redraw(const ProgressReport& report);
  void clear();

  std::ostream& out_;
  int width_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point drawn_at_{};
};

/// Shows how much of a work of known length is done, and when it will be: redrawn on a terminal,
/// elsewhere a line after two seconds and from then on every ten.
class OUTRIDER_API WorkProgress {
 public:
  using Clock = std::chrono::steady_clock;

  /// `unit` is what is counted: "conversation".
  WorkProgress(ProgressLine& line, std::string unit, Clock::time_point now = Clock::now());

  /// `tokens` are those of what is done.
  void update(int64_t done, int64_t total, int64_t tokens, Clock::time_point now = Clock::now());

 private:
  ProgressLine& line_;
  std::string unit_;
  Clock::time_point started_, next_;
};

}  // namespace outrider
