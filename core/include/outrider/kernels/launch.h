#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "outrider/api.h"
#include "outrider/kernels/data_type.h"
#include "outrider/kernels/launcher.h"

struct CUstream_st;

namespace outrider::kernels {

/// A tensor [...,width] as rows, as kernels see it.
struct Rows {
  int64_t count, width;
};
OUTRIDER_API Rows rows_of(const at::Tensor& x);

/// Throws kDeviceUnavailable: a tensor is on a CUDA device, and the build has no kernel for it.
[[noreturn]] OUTRIDER_API void throw_no_kernel(const std::string& name);

/// What surrounds a kernel's launch: the tensor's device is the current one for as long as the
/// object lives, and what the launch reports becomes an Error.
class OUTRIDER_API Launch {
 public:
  /// `name` appears in errors. Throws kUnsupported for a type that kernels do not know.
  Launch(const char* name, const at::Tensor& like);

  DataType type() const { return type_; }
  CUstream_st* stream() const { return stream_; }
  /// Device memory that is freed when the stream has used it.
  at::Tensor workspace(size_t bytes) const;
  /// Throws for a cudaError_t other than success: kDeviceUnavailable where the kernels were
  /// compiled for another GPU, else kInternal.
  void check(int status) const;

 private:
  const char* name_;
  c10::Device device_;
  DataType type_;
  c10::DeviceGuard guard_;
  CUstream_st* stream_;
};

}  // namespace outrider::kernels
