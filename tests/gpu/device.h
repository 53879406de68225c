#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace outrider::testing {

/// Whether a CUDA device can be used; no test runs where none can.
bool has_device();

at::Tensor on_device(const at::Tensor& tensor);

/// "Float", "BFloat16", ….
std::string type_name(const at::Tensor& tensor);

/// Largest difference between two tensors, relative to the largest magnitude in `expected`, or to
/// `unit` where that is larger: results that are 0 but for rounding need one (without, and with an
/// `expected` of zeros, the difference is absolute). Infinite where a tensor is not finite or the
/// shapes differ.
double difference(const at::Tensor& actual, const at::Tensor& expected, double unit = 0);

/// What `difference` may be between two orders of summation in this type.
double tolerance(at::ScalarType type);

}  // namespace outrider::testing
