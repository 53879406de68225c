#pragma once

#include "outrider/config/struct_schema.h"
#include "outrider/eagle/eagle_config.h"

namespace outrider::eagle {

const StructSchema<EagleConfig>& eagle_schema();

/// The draft decoder, typed: what `eagle_architecture_config` holds after merging.
struct Architecture {
  std::string hidden_act = "silu", torch_dtype = "bfloat16", position_embedding_type = "rope";
  Json rope_scaling = Json::object();
  double rope_theta = 10000.0;
  int64_t hidden_size = 0, draft_hidden_size = 0;  // of the base; of the draft
  int64_t vocab_size = 0, draft_vocab_size = 0, max_position_embeddings = 2048;
  int64_t num_hidden_layers = 1, intermediate_size = 14336;
  int64_t num_attention_heads = 32, num_key_value_heads = 8, head_dim = 128;
  double initializer_range = 0.01, rms_norm_eps = 1e-5, attention_dropout = 0.0;
  bool mlp_bias = false, attention_bias = false;
  bool use_input_layernorm_in_first_layer = true, use_last_layernorm = false;
  bool use_aux_hidden_state = false, use_mtp_layernorm = false, has_lm_head = false;
  bool has_embeddings = false, norm_before_residual = false;
  std::vector<int64_t> eagle_aux_hidden_state_layer_ids;
  int64_t parallel_draft_step = 1, parallel_draft_heads_num_layers = 1;
};

const StructSchema<Architecture>& architecture_schema();

}  // namespace outrider::eagle
