#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "distributed/backends.h"
#include "distributed/nccl/nccl_library.h"
#include "outrider/files/opened_library.h"

namespace outrider {
c10::intrusive_ptr<c10d::Backend> nccl_backend(const BackendPlace& place) {
  static const auto maker = reinterpret_cast<MakeNcclBackend*>(
      function_of_library(kNcclLibrary, kMakeNcclBackend, "several GPUs",
                          "use a build with CUDA, or train with one process"));
  return c10::intrusive_ptr<c10d::Backend>::reclaim(maker(place));
}

}  // namespace outrider
