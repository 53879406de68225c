#include <dlfcn.h>
#include <fmt/format.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "distributed/backends.h"
#include "distributed/nccl/nccl_library.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

MakeNcclBackend* find_maker() {
  // Never closed, as nothing that is opened here.
  void* library = dlopen(kNcclLibrary, RTLD_NOW | RTLD_LOCAL);
  void* maker = library ? dlsym(library, kMakeNcclBackend) : nullptr;
  if (maker) return reinterpret_cast<MakeNcclBackend*>(maker);
  throw Error(ErrorCode::kUnsupported,
              fmt::format("several GPUs need {}, which cannot be opened: {}", kNcclLibrary,
                          printable(dlerror(), 300)),
              "use a build with CUDA, or train with one process");
}

}  // namespace

c10::intrusive_ptr<c10d::Backend> nccl_backend(const BackendPlace& place) {
  static const auto maker = find_maker();
  return c10::intrusive_ptr<c10d::Backend>::reclaim(maker(place));
}

}  // namespace outrider
