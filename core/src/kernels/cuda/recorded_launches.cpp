#include "kernels/cuda/recorded_launches.h"

#include <cuda_runtime.h>

namespace outrider::cuda {

int begin_recording(CUstream_st* stream) {
  return cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
}

int end_recording(CUstream_st* stream, void** recorded) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  auto status = cudaStreamEndCapture(stream, &graph);
  if (status == cudaSuccess) status = cudaGraphInstantiate(&executable, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  *recorded = executable;
  return status;
}

int launch_recorded(void* recorded, CUstream_st* stream) {
  return cudaGraphLaunch(static_cast<cudaGraphExec_t>(recorded), stream);
}

void forget_recorded(void* recorded) {
  if (recorded) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recorded));
}

}  // namespace outrider::cuda
