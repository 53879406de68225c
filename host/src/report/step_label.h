#pragma once

#include <cstddef>
#include <string>

namespace outrider::report {

/// What people read for a step of a draft, counted from 0: which drafted token it predicts.
inline std::string step_label(size_t step) { return "draft token " + std::to_string(step + 1); }

}  // namespace outrider::report
