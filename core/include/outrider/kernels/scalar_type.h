#pragma once

#include <c10/core/ScalarType.h>

#include <string>

#include "outrider/error.h"
#include "outrider/kernels/data_type.h"

namespace outrider::kernels {

/// The kernels' name for a tensor's type. Throws kUnsupported, naming `where`, for types they do
/// not know.
inline DataType data_type(at::ScalarType type, const char* where) {
  switch (type) {
    case at::kFloat:
      return DataType::kFloat;
    case at::kHalf:
      return DataType::kHalf;
    case at::kBFloat16:
      return DataType::kBFloat16;
    case at::kDouble:
      return DataType::kDouble;
    default:
      throw Error(
          ErrorCode::kUnsupported,
          std::string(where) + ": no CUDA kernel for tensors of type " + c10::toString(type),
          "accepted are float32, float16, bfloat16 and float64");
  }
}

}  // namespace outrider::kernels
