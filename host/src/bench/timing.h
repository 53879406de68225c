#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <vector>

namespace outrider {

/// Of work, with all that it leaves to a device.
double seconds_of(c10::Device device, const std::function<void()>& work);
/// Of the same work five times.
std::vector<double> repeated_seconds_of(c10::Device device, const std::function<void()>& work);
double median(std::vector<double> values);

}  // namespace outrider
