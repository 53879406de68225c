#pragma once

namespace outrider::kernels {

/// Element types of device kernels, for interfaces that know nothing of LibTorch. Arithmetic is in
/// float32, for kDouble in float64.
enum class DataType { kFloat, kHalf, kBFloat16, kDouble };

}  // namespace outrider::kernels
