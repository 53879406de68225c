#pragma once

#include "outrider/kernels/launcher.h"

namespace outrider::kernels::cuda {

/// What a cudaError_t means.
OUTRIDER_LAUNCHER const char* status_text(int status);

}  // namespace outrider::kernels::cuda
