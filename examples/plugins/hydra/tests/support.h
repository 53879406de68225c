#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "hydra_mode.h"
#include "outrider/sdk/testing.h"

namespace hydra::testing {

constexpr int64_t kVocabulary = 9, kHidden = 4, kBatch = 2;

using outrider::testing::largest_difference;
using outrider::testing::random;

inline at::Tensor random_ids(at::IntArrayRef sizes, uint64_t seed) {
  return outrider::testing::random_ids(sizes, kVocabulary, seed);
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
