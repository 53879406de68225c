#include "outrider/kernels/current_stream.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace outrider::kernels {

CUstream_st* current_stream(c10::Device device) {
  const auto stream = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
  return static_cast<CUstream_st*>(stream.native_handle());
}

}  // namespace outrider::kernels
