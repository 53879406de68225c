#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/config/rope_config.h"
#include "outrider/json.h"

namespace outrider {

/// `config.json` of a base model, typed. Keys that Outrider does not read stay in `raw`.
struct OUTRIDER_API ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  std::string model_type;    // "llama"
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  int64_t num_hidden_layers = 0, num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  std::string hidden_act = "silu";
  bool attention_bias = false, mlp_bias = false, tie_word_embeddings = false;
  at::ScalarType dtype = at::kFloat;
  RopeConfig rope;
  Json raw = Json::object();

  /// Keys that are absent have the values that transformers gives them for the architecture.
  /// Throws kFileNotFound, kInvalidFile, kInvalidConfig that lists every problem at once, or
  /// kUnsupported for an unknown rope type; kUnknownArchitecture instead of the latter two where
  /// the architecture is unknown.
  static ModelConfig read(const std::filesystem::path& folder);
  static ModelConfig from_json(const Json& json, const std::string& origin);
};

}  // namespace outrider
