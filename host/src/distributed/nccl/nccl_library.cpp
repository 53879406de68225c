#include "distributed/nccl/nccl_library.h"

#include <cstdlib>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "outrider/api.h"

extern "C" OUTRIDER_API c10d::Backend* outrider_make_nccl_backend(
    const outrider::BackendPlace& place) {
  // LibTorch's own watchdog would end the process without a word; Rendezvous notices and says.
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", /*overwrite=*/0);
  auto options = c10d::ProcessGroupNCCL::Options::create(/*is_high_priority_stream=*/true);
  options->timeout = place.timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(place.store, place.rank, place.size,
                                                     std::move(options))
      .release();
}
