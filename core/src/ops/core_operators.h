#pragma once

#include <vector>

#include "outrider/ops/operator_library.h"

namespace outrider {

inline constexpr char kCoreNamespace[] = "outrider";

/// Puts the operators of ops/ into the dispatcher, where they are checked as a plugin's are. Call
/// once.
std::vector<OperatorSpec> register_core_operators();

/// Has that been done before a first call through the dispatcher.
inline void require_core_operators() {
  [[maybe_unused]] static const auto& registered = operator_specs();
}

// Parts of the former, each defined beside its operator.
OperatorSpec define_rms_norm();
OperatorSpec define_rotary();
OperatorSpec define_swiglu();

}  // namespace outrider
