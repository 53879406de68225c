#include "outrider/kernels/launch.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include "kernels/cuda/status_text.h"
#include "outrider/error.h"
#include "outrider/kernels/current_stream.h"
#include "outrider/kernels/scalar_type.h"

namespace outrider::kernels {
namespace {

constexpr int kNoKernelImageForDevice = 209;  // cudaErrorNoKernelImageForDevice

std::string text_of_status(int status) {
  return cuda::status_text ? cuda::status_text(status) : fmt::format("cudaError_t {}", status);
}

}  // namespace

Rows rows_of(const at::Tensor& x) {
  const int64_t width = x.size(-1);
  return {width == 0 ? 0 : x.numel() / width, width};
}

void throw_no_kernel(const std::string& name) {
  throw Error(ErrorCode::kDeviceUnavailable,
              name + ": a tensor is on a CUDA device, but this build has no CUDA kernels",
              "use --device cpu, or build where nvcc is on PATH");
}

Launch::Launch(const char* name, const at::Tensor& like)
    : name_(name),
      device_(like.device()),
      type_(data_type(like.scalar_type(), name)),
      guard_(device_),
      stream_(current_stream(device_)) {}

at::Tensor Launch::workspace(size_t bytes) const {
  return at::empty({static_cast<int64_t>(bytes)},
                   at::TensorOptions().dtype(at::kByte).device(device_));
}

void Launch::check(int status) const {
  if (status == 0) return;
  const bool is_foreign = status == kNoKernelImageForDevice;
  throw Error(is_foreign ? ErrorCode::kDeviceUnavailable : ErrorCode::kInternal,
              fmt::format("CUDA kernel {}: {}", name_, text_of_status(status)),
              is_foreign
                  ? "configure with -DOUTRIDER_CUDA_ARCHITECTURES set to this GPU's architecture"
                  : "run again with CUDA_LAUNCH_BLOCKING=1 to see which kernel fails");
}

}  // namespace outrider::kernels
