#include "outrider/error.h"
#include "residual_block_cuda.h"

namespace outrider::medusa::cuda {
namespace {

[[noreturn]] void throw_unavailable() {
  throw Error(ErrorCode::kDeviceUnavailable,
              "residual_block: this medusa plugin was built without CUDA kernels",
              "use --device cpu, or build the plugin where nvcc is on PATH");
}

}  // namespace

bool available() { return false; }

const char* error_text(int) { throw_unavailable(); }

int forward(const ResidualBlockShape&, const ResidualBlockInputs&, void*, CUstream_st*) {
  throw_unavailable();
}

size_t backward_workspace_bytes(const ResidualBlockShape&) { throw_unavailable(); }

int backward(const ResidualBlockShape&, const ResidualBlockInputs&, const void*,
             const ResidualBlockGradients&, void*, CUstream_st*) {
  throw_unavailable();
}

}  // namespace outrider::medusa::cuda
