#include "bench/timing.h"

#include <algorithm>
#include <chrono>

#include "machine/device.h"

namespace outrider {

double seconds_of(c10::Device device, const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  wait_for(device);
  const auto begin = Clock::now();
  work();
  wait_for(device);
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::vector<double> repeated_seconds_of(c10::Device device, const std::function<void()>& work) {
  constexpr int kRepeats = 5;
  std::vector<double> seconds;
  for (int i = 0; i < kRepeats; ++i) seconds.push_back(seconds_of(device, work));
  return seconds;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace outrider
