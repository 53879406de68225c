#include "outrider/ops/sampler.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

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

Sampler::Sampler(SamplingOptions options, uint64_t seed) : Sampler(options, std::vector{seed}) {
  is_shared_ = true;
}

Sampler::Sampler(SamplingOptions options, const std::vector<uint64_t>& seeds)
    : options_(options), is_shared_(false) {
  for (const auto seed : seeds) streams_.push_back(at::detail::createCPUGenerator(seed));
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

void Sampler::keep(const std::vector<int64_t>& sequences) {
  if (is_shared_) return;
  std::vector<at::Generator> kept;
  for (const int64_t sequence : sequences) kept.push_back(streams_[static_cast<size_t>(sequence)]);
  streams_ = std::move(kept);
}

at::Tensor Sampler::uniform_tensor(int64_t count) {
  const auto streams = static_cast<int64_t>(streams_.size());
  if (count % streams != 0) {
    throw Error(ErrorCode::kInternal,
                fmt::format("sampler: {} rows for {} sequences", count, streams));
  }
  std::vector<at::Tensor> drawn;
  for (const auto& stream : streams_) {
    drawn.push_back(at::rand({count / streams}, stream, at::TensorOptions(at::kDouble)));
  }
  return at::cat(drawn);
}

std::vector<double> Sampler::uniforms(int64_t count) {
  const auto values = uniform_tensor(count);
  const auto* first = values.const_data_ptr<double>();
  return {first, first + count};
}

at::Tensor Sampler::numbers(int64_t draws, int64_t rows) {
  std::vector<at::Tensor> all;
  for (int64_t i = 0; i < draws; ++i) all.push_back(uniform_tensor(rows));
  return at::stack(all);
}

at::Tensor Sampler::draw(const at::Tensor& probabilities) {
  return draw(probabilities, uniform_tensor(probabilities.size(0)).to(probabilities.device()));
}

// The first token whose cumulative probability exceeds the random number: never one of zero.
at::Tensor Sampler::draw(const at::Tensor& probabilities, const at::Tensor& numbers) {
  const auto cumulative = probabilities.cumsum(1, at::kDouble);
  const auto random = numbers.unsqueeze(1);
  const auto found =
      at::searchsorted(cumulative, random * cumulative.slice(1, -1), false, /*right=*/true);
  return found.squeeze(1).clamp_max(probabilities.size(1) - 1);
}

at::Tensor Sampler::choose(const at::Tensor& logits) {
  return is_greedy() ? logits.argmax(1) : draw(probabilities(logits));
}

}  // namespace outrider
