#pragma once

#include <functional>
#include <string>

namespace outrider::check {

/// Forks a child that runs `work`, which sends lines through its argument; `receive` is called in
/// this process with each of them. The child's standard output is its standard error, and no code
/// runs in it after `work`. A child that sends nothing for `timeout_seconds` (0: ever) is killed.
/// Returns how it ended: "exit status 0", "signal 11 (Segmentation fault)".
std::string run_in_child(const std::function<void(const std::function<void(std::string)>&)>& work,
                         const std::function<void(const std::string&)>& receive,
                         double timeout_seconds);

}  // namespace outrider::check
