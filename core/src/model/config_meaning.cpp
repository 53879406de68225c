#include "outrider/model/config_meaning.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

// A key that some architecture gives a meaning, and the values with which it means nothing.
struct MeaningfulKey {
  const char* name;
  std::vector<Json> neutral;
};

const std::vector<MeaningfulKey>& meaningful_keys() {
  static const auto& keys =
      *new std::vector<MeaningfulKey>{{"hidden_act", {"silu", "swish"}},
                                      {"hidden_activation", {"silu", "swish"}},
                                      {"attention_bias", {false}},
                                      {"mlp_bias", {false}},
                                      {"use_sliding_window", {false}},
                                      {"sliding_window", {}},
                                      {"attention_chunk_size", {}},
                                      {"rope_interleave", {false}},
                                      {"rope_interleaved", {false}},
                                      {"rope_local_base_freq", {}},
                                      {"no_rope_layers", {}},
                                      {"use_mrope", {false}},
                                      {"alibi", {false}},
                                      {"position_embedding_type", {"rope"}},
                                      {"is_causal", {true}},
                                      {"use_bidirectional_attention", {false}},
                                      {"attn_temperature_tuning", {false, 0}},
                                      {"attn_logit_softcapping", {}},
                                      {"final_logit_softcapping", {}},
                                      {"query_pre_attn_scalar", {}},
                                      {"clip_qkv", {}},
                                      {"use_qk_norm", {false}},
                                      {"qk_layernorm", {false}},
                                      {"attention_multiplier", {}},
                                      {"embedding_multiplier", {1}},
                                      {"residual_multiplier", {1}},
                                      {"logits_scaling", {1}},
                                      {"logit_scale", {1}},
                                      {"scale_emb", {1}},
                                      {"scale_depth", {}},
                                      {"use_parallel_residual", {false}},
                                      {"q_lora_rank", {}},
                                      {"kv_lora_rank", {}},
                                      {"num_experts", {0}},
                                      {"num_local_experts", {0}},
                                      {"n_routed_experts", {0}},
                                      {"num_experts_per_tok", {0}},
                                      {"moe_intermediate_size", {0}}};
  return keys;
}

std::string dumped(const Json& value) { return printable(value.dump(), 60); }

bool is_neutral(const MeaningfulKey& key, const Json& value) {
  return value.is_null() ||
         std::find(key.neutral.begin(), key.neutral.end(), value) != key.neutral.end();
}

std::string complaint(const MeaningfulKey& key, const Json& value) {
  std::vector<std::string> accepted;
  for (const auto& neutral : key.neutral) accepted.push_back(dumped(neutral));
  return fmt::format("'{}' is {}, supported is {}", key.name, dumped(value),
                     accepted.empty() ? "null" : join(accepted, " or "));
}

// A list of full attention says what holds without it.
void check_layer_types(const ModelConfig& config, std::vector<std::string>& problems) {
  const auto types = config.raw.value("layer_types", Json());
  if (types.is_null()) return;
  const bool all_full = types.is_array() && std::all_of(types.begin(), types.end(), [](auto& type) {
                          return type == "full_attention";
                        });
  if (!all_full) {
    problems.push_back(
        fmt::format("'layer_types' is {}, supported is \"full_attention\"", dumped(types)));
  }
}

}  // namespace

void check_meaning(const ModelConfig& config, const std::set<std::string>& understood) {
  std::vector<std::string> problems;
  for (const auto& key : meaningful_keys()) {
    const auto value = config.raw.value(key.name, Json());
    if (understood.contains(key.name) || is_neutral(key, value)) continue;
    problems.push_back(complaint(key, value));
  }
  if (!understood.contains("layer_types")) check_layer_types(config, problems);
  if (!understood.contains("partial_rotary_factor") && config.rope.partial_rotary_factor != 1.0) {
    problems.push_back(fmt::format("'partial_rotary_factor' is {}, supported is 1",
                                   config.rope.partial_rotary_factor));
  }
  if (problems.empty()) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: {}", config.architecture, join(problems, "; ")),
              "these keys change what the model computes, and Outrider does not know this variant");
}

}  // namespace outrider
