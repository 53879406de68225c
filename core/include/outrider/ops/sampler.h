#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "outrider/api.h"

namespace outrider {

/// How tokens are chosen from logits; applied in this order, as transformers does.
struct SamplingOptions {
  double temperature = 0.0;  // logits are divided by it; 0: always the likeliest token
  int64_t top_k = 0;         // tokens less likely than the k-th are left out; 0: none is
  double top_p = 1.0;        // the least likely tokens, 1 - top_p of all in sum, are left out
};

/// Draws tokens, reproducibly: its random numbers come from one stream, whatever the device, or
/// from one for each sequence of a batch, whatever the others are.
class OUTRIDER_API Sampler {
 public:
  /// Throws kInvalidArgument unless temperature ≥ 0, top_k ≥ 0 and 0 < top_p ≤ 1.
  Sampler(SamplingOptions options, uint64_t seed);
  /// A stream for each sequence: what is drawn for n rows is drawn for equally many of each, in
  /// their order.
  Sampler(SamplingOptions options, const std::vector<uint64_t>& seeds);

  /// The sequences that go on, in their new order. Nothing to do where all share a stream.
  void keep(const std::vector<int64_t>& sequences);

  const SamplingOptions& options() const { return options_; }
  bool is_greedy() const { return options_.temperature == 0.0; }
  /// logits [n,V] → the probabilities that tokens are drawn with, [n,V] float32 (float64 of
  /// float64). Not where is_greedy().
  at::Tensor probabilities(const at::Tensor& logits) const;
  /// One token for each row of probabilities [n,V], which need not sum to one: [n] int64.
  at::Tensor draw(const at::Tensor& probabilities);
  /// The random numbers that draws of n rows each would take, so many draws one after the other:
  /// [draws,n], for draw() below.
  at::Tensor numbers(int64_t draws, int64_t rows);
  /// draw() with numbers [n] that were drawn ahead, on the device of the probabilities.
  static at::Tensor draw(const at::Tensor& probabilities, const at::Tensor& numbers);
  /// The likeliest token of each row of logits, or one drawn from probabilities().
  at::Tensor choose(const at::Tensor& logits);
  /// Uniform in [0,1).
  std::vector<double> uniforms(int64_t count);

 private:
  at::Tensor uniform_tensor(int64_t count);

  SamplingOptions options_;
  std::vector<at::Generator> streams_;
  bool is_shared_;
};

}  // namespace outrider
