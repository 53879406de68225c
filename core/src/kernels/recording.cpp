#include "kernels/recording.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

#include "kernels/cuda/recorded_launches.h"
#include "outrider/kernels/launch.h"

namespace outrider::kernels {

Recording::~Recording() {
  if (recorded_) cuda::forget_recorded(recorded_);
}

void Recording::record(const at::Tensor& like, const std::function<void()>& launches) {
  const auto device = like.device();
  const c10::StreamGuard side(
      c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device));
  const Launch launch("a recording", like);
  launch.check(cuda::begin_recording(launch.stream()));
  try {
    launches();
  } catch (...) {
    cuda::end_recording(launch.stream(), &recorded_);
    throw;
  }
  launch.check(cuda::end_recording(launch.stream(), &recorded_));
}

void Recording::run(const at::Tensor& like, const std::function<void()>& launches) {
  if (!std::exchange(has_run_, true)) return launches();
  if (!recorded_) record(like, launches);
  const Launch launch("a recording", like);
  launch.check(cuda::launch_recorded(recorded_, launch.stream()));
}

}  // namespace outrider::kernels
