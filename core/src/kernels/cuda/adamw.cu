#include <cmath>

#include "kernels/cuda/adamw.h"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_whole_packs.cuh"

// Memory bounds this: each value is read once and written once, eight of each tensor a thread.

namespace outrider::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;

struct Values {
  float x[kPerThread];
};

template <bool kWhole, class T>
__device__ Values load(const T* from, int64_t begin, int64_t size) {
  Values values;
#pragma unroll
  for (int first = 0; first < kPerThread; first += Pack<T>::kSize) {
    const auto pack = Packs<kWhole>::load(from, begin + first, size);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) values.x[first + i] = static_cast<float>(pack.x[i]);
  }
  return values;
}

template <bool kWhole, class T>
__device__ void store(T* to, int64_t begin, int64_t size, const Values& values) {
#pragma unroll
  for (int first = 0; first < kPerThread; first += Pack<T>::kSize) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) pack.x[i] = values.x[first + i];
    Packs<kWhole>::store(to, begin + first, size, pack);
  }
}

struct Factors {
  float beta1, beta2, log_beta1, log_beta2, rate, kept, epsilon;

  explicit Factors(const AdamWCoefficients& n)
      : beta1(static_cast<float>(n.beta1)),
        beta2(static_cast<float>(n.beta2)),
        log_beta1(static_cast<float>(std::log(n.beta1))),
        log_beta2(static_cast<float>(std::log(n.beta2))),
        rate(static_cast<float>(n.learning_rate)),
        kept(static_cast<float>(1 - n.learning_rate * n.weight_decay)),
        epsilon(static_cast<float>(n.epsilon)) {}
};

// 1 - βᵗ by way of the logarithm, since β is close to 1.
template <bool kWhole, class G, class P>
__global__ void __launch_bounds__(kThreads) adamw_kernel(AdamWPointers in, Factors f) {
  const int64_t begin =
      (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * int64_t{kPerThread};
  if (begin >= in.size) return;
  const auto g = load<kWhole>(static_cast<const G*>(in.gradient), begin, in.size);
  auto master = load<kWhole>(in.master, begin, in.size);
  auto first = load<kWhole>(in.exp_avg, begin, in.size);
  auto second = load<kWhole>(in.exp_avg_sq, begin, in.size);
  const float scale = in.gradient_scale ? *in.gradient_scale : 1.0f;
  const float rate = f.rate / -expm1f(*in.step * f.log_beta1);
  const float spread = sqrtf(-expm1f(*in.step * f.log_beta2));
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const float gradient = g.x[i] * scale;
    first.x[i] = f.beta1 * first.x[i] + (1 - f.beta1) * gradient;
    second.x[i] = f.beta2 * second.x[i] + (1 - f.beta2) * gradient * gradient;
    const float denominator = sqrtf(second.x[i]) / spread + f.epsilon;
    master.x[i] = f.kept * master.x[i] - rate * first.x[i] / denominator;
  }
  store<kWhole>(in.master, begin, in.size, master);
  store<kWhole>(in.exp_avg, begin, in.size, first);
  store<kWhole>(in.exp_avg_sq, begin, in.size, second);
  if (in.parameter) store<kWhole>(static_cast<P*>(in.parameter), begin, in.size, master);
}

template <class G, class P>
cudaError_t launch_adamw(const AdamWPointers& p, const AdamWCoefficients& coefficients,
                         cudaStream_t stream) {
  const auto* gradient = static_cast<const G*>(p.gradient);
  const auto* parameter = static_cast<const P*>(p.parameter);
  const bool is_whole =
      p.size % kPerThread == 0 &&
      are_whole_packs<float>({}, p.master, p.exp_avg, p.exp_avg_sq, gradient, parameter);
  const int64_t blocks = (p.size + kThreads * kPerThread - 1) / (kThreads * kPerThread);
  return launch(is_whole ? adamw_kernel<true, G, P> : adamw_kernel<false, G, P>,
                dim3(grid_size(blocks)), dim3(kThreads), 0, stream, p, Factors(coefficients));
}

}  // namespace

int adamw(DataType type, bool has_float_gradient, const AdamWPointers& pointers,
          const AdamWCoefficients& coefficients, cudaStream_t stream) {
  if (pointers.size == 0) return cudaSuccess;
  return with_type(type, [&]<class T>(T) {
    return has_float_gradient ? launch_adamw<float, T>(pointers, coefficients, stream)
                              : launch_adamw<T, T>(pointers, coefficients, stream);
  });
}

}  // namespace outrider::kernels::cuda
