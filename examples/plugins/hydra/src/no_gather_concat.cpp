#include "gather_concat_cuda.h"
#include "outrider/error.h"

namespace hydra::cuda {
namespace {

[[noreturn]] void throw_unavailable() {
  throw outrider::Error(outrider::ErrorCode::kDeviceUnavailable,
                        "gather_concat: this hydra plugin was built without CUDA kernels",
                        "use --device cpu, or build the plugin where nvcc is on PATH");
}

}  // namespace

bool available() { return false; }

const char* error_text(int) { throw_unavailable(); }

int forward(const GatherConcatShape&, const void*, const void*, const int64_t*, void*,
            CUstream_st*) {
  throw_unavailable();
}

int backward(const GatherConcatShape&, const void*, const int64_t*, void*, void*, CUstream_st*) {
  throw_unavailable();
}

}  // namespace hydra::cuda
