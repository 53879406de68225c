#include "kernels/cuda_graph/graph_library.h"

#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/zeros.h>

namespace outrider {
namespace {

class CudaGraph : public DeviceGraph {
 public:
  explicit CudaGraph(const CudaGraph* shares_memory_with)
      : pool_(shares_memory_with ? shares_memory_with->pool_ : at::cuda::graph_pool_handle()) {}

  // Other threads may do what a recording one may not: the backward pass has threads of its own.
  void record(const std::function<void()>& work) override {
    graph_.capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      stop();
      throw;
    }
    graph_.capture_end();
  }

  void launch() override { graph_.replay(); }

 private:
  // The error that ended the recording is the one to tell. It leaves LibTorch's random numbers as
  // if they were being recorded still, which one that ends well puts right.
  void stop() noexcept {
    try {
      graph_.capture_end();
    } catch (...) {
      cudaGetLastError();
      end_well();
    }
  }

  void end_well() noexcept {
    try {
      at::cuda::CUDAGraph other;
      other.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
      at::zeros({1}, at::kCUDA);
      other.capture_end();
    } catch (...) {
      cudaGetLastError();
    }
  }

  at::cuda::MempoolId_t pool_;
  at::cuda::CUDAGraph graph_;
};

}  // namespace
}  // namespace outrider

extern "C" OUTRIDER_API outrider::DeviceGraph* outrider_make_cuda_graph(
    const outrider::DeviceGraph* shares_memory_with) {
  return new outrider::CudaGraph(static_cast<const outrider::CudaGraph*>(shares_memory_with));
}
