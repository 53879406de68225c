#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "outrider/json.h"

namespace outrider::eagle {

/// The config of mode "eagle": ModelOpt's EagleConfig, field by field, and an extension.
/// docs/modes/eagle.md says what conversion does with each.
struct EagleConfig {
  bool eagle_offline = false;
  bool eagle_hidden_state_distillation = false;
  bool eagle_self_logit_distillation = true;
  std::string eagle_loss = "cross_entropy";  // an extension: a name of kDivergenceNames
  bool eagle_freeze_base_model = true;
  bool eagle_report_acc = true;
  bool eagle_reuse_base_decoder = false;
  double eagle_loss_decay_factor = 0.9;
  Json eagle_architecture_config = Json::object();
  std::string eagle_decoder_type = "llama";
  int64_t eagle_ttt_steps = 3;
  bool eagle_mix_hidden_states = false;
  bool eagle_use_torch_compile = true;
  bool eagle_enable_nvtx = false;
  Json eagle_export_rope_scaling = {
      {"rope_type", "yarn"}, {"factor", 32.0}, {"original_max_position_embeddings", 2048}};
  bool eagle_base_lora = false;
  int64_t eagle_base_lora_rank = 64;
  double eagle_base_lora_alpha = 16.0;
  std::optional<std::vector<Json>> eagle_base_lora_target_modules;
  double eagle_base_lora_preservation_loss_weight = 0.1;
  int64_t eagle_base_lora_warmup_steps = 0;
  std::optional<int64_t> eagle_base_lora_start_layer;
  double eagle_base_lora_logits_detach_prob = 0.5;
};

/// The draft decoder that every architecture config is merged over, ModelOpt 0.47.
inline Json llama_architecture() {
  return {{"hidden_act", "silu"},
          {"torch_dtype", "bfloat16"},
          {"position_embedding_type", "rope"},
          {"rope_scaling", {{"rope_type", "default"}, {"rope_theta", 10000}}},
          {"rope_theta", 10000},
          {"num_hidden_layers", 1},
          {"intermediate_size", 14336},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 8},
          {"initializer_range", 0.01},
          {"rms_norm_eps", 1e-5},
          {"mlp_bias", false},
          {"attention_bias", false},
          {"attention_dropout", 0.0},
          {"use_input_layernorm_in_first_layer", true},
          {"use_last_layernorm", false},
          {"use_aux_hidden_state", false},
          {"eagle_aux_hidden_state_layer_ids", Json::array()},
          {"use_mtp_layernorm", false},
          {"parallel_draft_step", 1},
          {"parallel_draft_heads_num_layers", 1},
          {"has_lm_head", false},
          {"head_dim", 128}};
}

inline Json eagle3_architecture() {
  auto architecture = llama_architecture();
  architecture["use_aux_hidden_state"] = true;
  architecture["use_last_layernorm"] = true;
  return architecture;
}

inline Json eagle_mtp_architecture() {
  auto architecture = llama_architecture();
  architecture["use_last_layernorm"] = true;
  architecture["use_mtp_layernorm"] = true;
  return architecture;
}

/// ModelOpt 0.42's architecture, with which EAGLE-1 was trained.
inline Json eagle1_architecture() {
  auto architecture = llama_architecture();
  architecture["rope_theta"] = 500000.0;
  architecture["rope_scaling"] = {{"rope_type", "llama3"},
                                  {"factor", 8.0},
                                  {"low_freq_factor", 1.0},
                                  {"high_freq_factor", 4.0},
                                  {"original_max_position_embeddings", 8192}};
  return architecture;
}

/// A preset as the reference's constants are: a mode dictionary {"algorithm": …, "config": …}.
/// Built when it is asked for, so that this header brings no start-up code.
struct PresetConstant {
  Json (*config)();
  operator Json() const { return {{"algorithm", "eagle"}, {"config", config()}}; }
};

inline constexpr PresetConstant EAGLE1_DEFAULT_CFG{[] {
  return Json{{"eagle_architecture_config", eagle1_architecture()},
              {"eagle_export_rope_scaling", Json::object()}};
}};
inline constexpr PresetConstant EAGLE3_DEFAULT_CFG{[] {
  return Json{{"eagle_architecture_config", eagle3_architecture()}};
}};
inline constexpr PresetConstant EAGLE_MTP_DEFAULT_CFG{[] {
  return Json{{"eagle_reuse_base_decoder", true},
              {"eagle_architecture_config", eagle_mtp_architecture()}};
}};

}  // namespace outrider::eagle
