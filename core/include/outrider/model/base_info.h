#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "outrider/model/model_config.h"

namespace outrider {

/// What convert and restore may know of a base; it also describes a base that is no native
/// CausalLM.
struct BaseInfo {
  const ModelConfig& config;
  std::string architecture;
  at::ScalarType dtype;
  at::Device device;
  int64_t num_layers, hidden_size, vocab_size;
  /// Base token ids [Vd] int64, strictly increasing, that the user chose as the draft vocabulary;
  /// undefined when none was chosen. A mode that honours it records the metadata key
  /// "draft_vocab_size".
  at::Tensor draft_vocabulary = {};
  /// The ModelOpt release whose numerics are wanted, "0.47" or "0.42"; empty for Outrider's own. A
  /// mode that honours it records it in the metadata key "reference_numerics".
  std::string reference_numerics = {};
};

}  // namespace outrider
