#include "double_norm_concat_cuda.h"
#include "outrider/error.h"

namespace outrider::eagle::cuda {
namespace {

[[noreturn]] void throw_unavailable() {
  throw Error(ErrorCode::kDeviceUnavailable,
              "double_norm_concat: this eagle plugin was built without CUDA kernels",
              "use --device cpu, or build the plugin where nvcc is on PATH");
}

}  // namespace

bool available() { return false; }

const char* error_text(int) { throw_unavailable(); }

int forward(const DoubleNormShape&, const DoubleNormInputs&, void*, CUstream_st*) {
  throw_unavailable();
}

size_t backward_workspace_bytes(const DoubleNormShape&) { throw_unavailable(); }

int backward(const DoubleNormShape&, const DoubleNormInputs&, const void*,
             const DoubleNormGradients&, void*, CUstream_st*) {
  throw_unavailable();
}

}  // namespace outrider::eagle::cuda
