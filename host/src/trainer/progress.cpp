#include "trainer/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ostream>
#include <utility>

namespace outrider {
namespace {

constexpr size_t kMaxBarWidth = 24;
constexpr std::chrono::milliseconds kRedrawEvery{100};
constexpr std::chrono::seconds kFirstLineAfter{2}, kLineEvery{10};
constexpr const char* kClearLine = "\r\x1b[K";

std::string bar(double share, size_t width) {
  const auto filled = static_cast<size_t>(std::clamp(share, 0.0, 1.0) * static_cast<double>(width));
  return fmt::format("[{}{}] ", std::string(filled, '#'), std::string(width - filled, '.'));
}

/// The line, cut to a terminal's width so that it can be redrawn, with a bar where there is room.
std::string fitted(const ProgressReport& report, size_t width) {
  constexpr size_t kFrame = 4, kMinBarWidth = 8;  // brackets, space, and the column of the cursor
  const auto line = format_progress(report);
  if (line.size() + kFrame + kMinBarWidth > width) return line.substr(0, width - 1);
  return bar(report.share, std::min(kMaxBarWidth, width - line.size() - kFrame)) + line;
}

}  // namespace

std::string format_duration(double seconds) {
  const auto total = std::llround(std::clamp(seconds, 0.0, 1e9));
  const auto hours = total / 3600, minutes = total / 60 % 60, rest = total % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, rest)
                   : fmt::format("{}:{:02}", minutes, rest);
}

std::string format_count(double count) {
  if (count < 999.5) return fmt::format("{:.0f}", count);
  if (count < 999.5e3) return fmt::format("{:.1f}k", count / 1e3);
  return fmt::format("{:.1f}M", count / 1e6);
}

int terminal_width(int descriptor) {
  if (isatty(descriptor) == 0) return 0;
  winsize size = {};
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string format_progress(const ProgressReport& report) {
  const double share = std::clamp(report.share, 0.0, 1.0);
  auto line = report.total_steps > 0
                  ? fmt::format("{} {}/{}", report.unit, report.step, report.total_steps)
                  : fmt::format("{} {}", report.unit, report.step);
  line += fmt::format("  {:.0f}%", 100 * share);
  if (report.loss) line += fmt::format("  loss {:.4f}", *report.loss);
  if (report.held_out_loss) line += fmt::format("  held out {:.4f}", *report.held_out_loss);
  if (report.accuracy) line += fmt::format("  accuracy {:.3f}", *report.accuracy);
  if (report.tokens_per_second) {
    line += fmt::format("  {} tokens/s", format_count(*report.tokens_per_second));
  }
  if (report.eta_seconds) line += "  ETA " + format_duration(*report.eta_seconds);
  return line;
}

ProgressLine::~ProgressLine() { clear(); }

void ProgressLine::update(const ProgressReport& report) {
  if (width_ > 0 && std::chrono::steady_clock::now() - drawn_at_ >= kRedrawEvery) redraw(report);
}

void ProgressLine::logged(const ProgressReport& report) {
  if (width_ > 0) {
    redraw(report);
  } else {
    note(format_progress(report));
  }
}

void ProgressLine::note(const std::string& text) {
  clear();
  out_ << text << '\n' << std::flush;
}

void ProgressLine::redraw(const ProgressReport& report) {
  out_ << kClearLine << fitted(report, static_cast<size_t>(width_)) << std::flush;
  drawn_ = true;
  drawn_at_ = std::chrono::steady_clock::now();
}

void ProgressLine::clear() {
  if (drawn_) out_ << kClearLine << std::flush;
  drawn_ = false;
}

WorkProgress::WorkProgress(ProgressLine& line, std::string unit, Clock::time_point now)
    : line_(line), unit_(std::move(unit)), started_(now), next_(now + kFirstLineAfter) {}

void WorkProgress::update(int64_t done, int64_t total, int64_t tokens, Clock::time_point now) {
  const double seconds = std::chrono::duration<double>(now - started_).count();
  ProgressReport report;
  report.unit = unit_;
  report.step = done;
  report.total_steps = total;
  report.share = static_cast<double>(done) / static_cast<double>(total);
  report.tokens_per_second = static_cast<double>(tokens) / std::max(seconds, 1e-9);
  if (done > 0) report.eta_seconds = seconds * (1 - report.share) / report.share;
  if (now < next_) return line_.update(report);
  next_ = now + kLineEvery;
  line_.logged(report);
}

}  // namespace outrider
