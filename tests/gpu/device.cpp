#include "device.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

namespace outrider::testing {

bool has_device() { return at::hasCUDA(); }

at::Tensor on_device(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.to(at::kCUDA) : tensor;
}

std::string type_name(const at::Tensor& tensor) { return c10::toString(tensor.scalar_type()); }

double difference(const at::Tensor& actual, const at::Tensor& expected, double unit) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (actual.sizes() != expected.sizes()) return kInfinity;
  if (expected.numel() == 0) return 0;
  const auto a = actual.detach().to(at::kCPU, at::kDouble);
  const auto e = expected.detach().to(at::kCPU, at::kDouble);
  const double largest = at::abs(a - e).max().item<double>();  // NaN wins in max()
  const double scale = std::max(unit, at::abs(e).max().item<double>());
  if (!(largest < kInfinity && scale < kInfinity)) return kInfinity;
  return scale == 0 ? largest : largest / scale;
}

double tolerance(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return 1e-10;
    case at::kHalf:
      return 4e-3;
    case at::kBFloat16:
      return 2e-2;
    default:
      return 5e-5;
  }
}

}  // namespace outrider::testing
