#include "outrider/kernels/device_graph.h"

#include "kernels/cuda_graph/graph_library.h"
#include "outrider/files/opened_library.h"

namespace outrider {

std::unique_ptr<DeviceGraph> make_device_graph(const DeviceGraph* shares_memory_with) {
  static const auto maker = reinterpret_cast<MakeCudaGraph*>(
      function_of_library(kCudaGraphLibrary, kMakeCudaGraph, "CUDA graphs",
                          "use a build with CUDA, or --cuda-graphs off"));
  return std::unique_ptr<DeviceGraph>(maker(shares_memory_with));
}

}  // namespace outrider
