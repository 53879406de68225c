#include "kernels/cross_entropy_rows.h"
#include "outrider/error.h"

namespace outrider::kernels::cuda {
namespace {

[[noreturn]] void throw_unavailable() {
  throw Error(ErrorCode::kDeviceUnavailable,
              "a tensor is on a CUDA device, but this Outrider was built without CUDA kernels",
              "use --device cpu, or build Outrider where nvcc is on PATH");
}

}  // namespace

RowStatistics row_statistics(const at::Tensor&) { throw_unavailable(); }

RowResults soft_cross_entropy_rows(const at::Tensor&, const at::Tensor&, const RowStatistics&,
                                   const at::Tensor&, const at::Tensor&, bool) {
  throw_unavailable();
}

RowResults label_cross_entropy_rows(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool) {
  throw_unavailable();
}

}  // namespace outrider::kernels::cuda
