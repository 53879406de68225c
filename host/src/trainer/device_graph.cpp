#include "trainer/device_graph.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include "outrider/error.h"
#include "outrider/text.h"
#include "trainer/cuda_graph/graph_library.h"

namespace outrider {
namespace {

MakeCudaGraph* find_graph_maker() {
  // Never closed, as nothing that is opened here.
  void* library = dlopen(kCudaGraphLibrary, RTLD_NOW | RTLD_LOCAL);
  void* maker = library ? dlsym(library, kMakeCudaGraph) : nullptr;
  if (maker) return reinterpret_cast<MakeCudaGraph*>(maker);
  throw Error(ErrorCode::kUnsupported,
              fmt::format("CUDA graphs need {}, which cannot be opened: {}", kCudaGraphLibrary,
                          printable(dlerror(), 300)),
              "use a build with CUDA, or --cuda-graphs off");
}

}  // namespace

std::unique_ptr<DeviceGraph> make_device_graph(const DeviceGraph* shares_memory_with) {
  static const auto maker = find_graph_maker();
  return std::unique_ptr<DeviceGraph>(maker(shares_memory_with));
}

}  // namespace outrider
