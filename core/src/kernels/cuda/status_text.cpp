#include "kernels/cuda/status_text.h"

#include <cuda_runtime_api.h>

namespace outrider::kernels::cuda {

const char* status_text(int status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

}  // namespace outrider::kernels::cuda
