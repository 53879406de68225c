#include "outrider/ops/sampler.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "outrider/error.h"
#include "outrider/kernels/accumulation.h"

namespace outrider {
namespace {

constexpr double kLeftOut = -std::numeric_limits<double>::infinity();

at::Tensor likeliest_of_all(const at::Tensor& logits, int64_t k) {
  if (k == 0 || k >= logits.size(1)) return logits;
  const auto least = std::get<0>(logits.topk(k, 1)).slice(1, k - 1);
  return logits.masked_fill(logits < least, kLeftOut);
}

// The likeliest token stays whatever it is.
at::Tensor nucleus(const at::Tensor& logits, double top_p) {
  if (top_p >= 1.0) return logits;
  const auto [sorted, order] = logits.sort(1, /*descending=*/false);
  auto left_out = at::softmax(sorted, 1).cumsum(1).le(1.0 - top_p);
  left_out.slice(1, -1).fill_(false);
  return logits.masked_fill(at::zeros_like(left_out).scatter_(1, order, left_out), kLeftOut);
}

}  // namespace

Sampler::Sampler(SamplingOptions options, uint64_t seed)
    : options_(options), generator_(at::detail::createCPUGenerator(seed)) {
  if (!(options.temperature >= 0.0) || options.top_k < 0 || !(options.top_p > 0.0) ||
      options.top_p > 1.0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("sampling with temperature {}, top-k {} and top-p {}",
                            options.temperature, options.top_k, options.top_p),
                "temperature is 0 (greedy) or more, top-k 0 (all) or more, top-p in (0, 1]");
  }
}

at::Tensor Sampler::probabilities(const at::Tensor& logits) const {
  const auto scaled = widened(logits) / options_.temperature;
  return at::softmax(nucleus(likeliest_of_all(scaled, options_.top_k), options_.top_p), 1);
}

at::Tensor Sampler::uniform_tensor(int64_t count) {
  return at::rand({count}, generator_, at::TensorOptions(at::kDouble));
}

std::vector<double> Sampler::uniforms(int64_t count) {
  const auto values = uniform_tensor(count);
  const auto* first = values.const_data_ptr<double>();
  return {first, first + count};
}

// The first token whose cumulative probability exceeds the random number: never one of zero.
at::Tensor Sampler::draw(const at::Tensor& probabilities) {
  const auto cumulative = probabilities.cumsum(1, at::kDouble);
  const auto random = uniform_tensor(probabilities.size(0)).unsqueeze(1).to(cumulative.device());
  const auto found =
      at::searchsorted(cumulative, random * cumulative.slice(1, -1), false, /*right=*/true);
  return found.squeeze(1).clamp_max(probabilities.size(1) - 1);
}

at::Tensor Sampler::choose(const at::Tensor& logits) {
  return is_greedy() ? logits.argmax(1) : draw(probabilities(logits));
}

}  // namespace outrider
