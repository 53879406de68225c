#pragma once

namespace outrider::kernels {

/// The largest finite value of the eight-bit float e4m3 (arXiv 2209.05433).
inline constexpr float kLargestE4m3 = 448.0F;
/// What a row of smaller values is taken to reach, so that its scale is no zero.
inline constexpr float kLeastMagnitude = 1e-12F;

}  // namespace outrider::kernels
