#pragma once

#include "distributed/backends.h"

namespace outrider {

inline constexpr const char* kNcclLibrary = "liboutrider_nccl.so";
inline constexpr const char* kMakeNcclBackend = "outrider_make_nccl_backend";

/// The one function of that library: a reference that its caller owns.
using MakeNcclBackend = c10d::Backend*(const BackendPlace& place);

}  // namespace outrider
