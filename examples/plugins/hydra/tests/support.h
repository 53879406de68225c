#pragma once

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cstdint>

#include "hydra_mode.h"

namespace hydra::testing {

constexpr int64_t kVocabulary = 9, kHidden = 4, kBatch = 2;

/// Standard normal values that depend on nothing but the seed.
inline at::Tensor random(at::IntArrayRef sizes, uint64_t seed, at::ScalarType type = at::kDouble) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(sizes, generator, at::kDouble).to(type);
}

inline at::Tensor random_ids(at::IntArrayRef sizes, uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randint(0, kVocabulary, sizes, generator, at::kLong);
}

inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

inline outrider::BaseInfo base_info() {
  static const auto config =
      outrider::ModelConfig::from_json({{"architectures", {"LlamaForCausalLM"}},
                                        {"vocab_size", kVocabulary},
                                        {"hidden_size", kHidden},
                                        {"intermediate_size", 8},
                                        {"num_hidden_layers", 2},
                                        {"num_attention_heads", 1}},
                                       "config.json");
  return {config, "LlamaForCausalLM", at::kDouble, at::kCPU, 2, kHidden, kVocabulary};
}

}  // namespace hydra::testing
