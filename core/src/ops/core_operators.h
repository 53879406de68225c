#pragma once

#include <vector>

#include "outrider/ops/operator_library.h"

namespace outrider {

inline constexpr char kCoreNamespace[] = "outrider";

/// Puts the operators of ops/ into the dispatcher, where they are checked as a plugin's are. Call
/// once.
std::vector<OperatorSpec> register_core_operators();

}  // namespace outrider
