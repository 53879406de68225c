#include "kernels/cuda/scale.h"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"

namespace outrider::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int64_t kMostBlocks = 1056;  // eight for each multiprocessor of an H100

template <class T>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(T* values, int64_t size, const Accumulate<T>* factor) {
  const Accumulate<T> by = *factor;
  if (by == 1) return;
  const int64_t first = first_pack(values) + blockIdx.x * pack_stride<T>();
  for (int64_t begin = first; begin < size; begin += gridDim.x * pack_stride<T>()) {
    Pack<T> pack = load_pack(values, begin, size);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) pack.x[i] *= by;
    store_pack(values, begin, size, pack);
  }
}

}  // namespace

int scale(DataType type, void* values, int64_t size, const void* factor, cudaStream_t stream) {
  if (size == 0) return cudaSuccess;
  return with_type(type, [&]<class T>(T) {
    const int64_t packs = size / (int64_t{kThreads} * Pack<T>::kSize) + 1;
    return launch(scale_kernel<T>, dim3(grid_size(packs, kMostBlocks)), dim3(kThreads), 0, stream,
                  static_cast<T*>(values), size, static_cast<const Accumulate<T>*>(factor));
  });
}

}  // namespace outrider::kernels::cuda
