#include "eagle_schema.h"

#include "outrider/kernels/divergence.h"

namespace outrider::eagle {
namespace {

Constraint<std::string> losses() {
  Constraint<std::string> constraint{.extension = true};
  for (const auto& known : kDivergenceNames) constraint.choices.emplace_back(known.name);
  return constraint;
}

StructSchema<EagleConfig> make_eagle_schema() {
  using C = EagleConfig;
  StructSchema<C> schema("EagleConfig");
  schema
      .field("eagle_offline", &C::eagle_offline,
             "Read the base's outputs from files; the base keeps no decoder layers.")
      .field("eagle_hidden_state_distillation", &C::eagle_hidden_state_distillation,
             "Regress the base's hidden states.")
      .field("eagle_self_logit_distillation", &C::eagle_self_logit_distillation,
             "Train on the base's distribution; false: on the tokens themselves.")
      .field(
          "eagle_loss", &C::eagle_loss,
          "What the draft's distribution is held to the base's by; docs/training.md compares them.",
          losses())
      .field("eagle_freeze_base_model", &C::eagle_freeze_base_model, "Do not train the base.")
      .field("eagle_report_acc", &C::eagle_report_acc, "Accuracies are always reported: no effect.")
      .field("eagle_reuse_base_decoder", &C::eagle_reuse_base_decoder,
             "Size the draft layer like the base's layers, rotary embedding included.")
      .field("eagle_loss_decay_factor", &C::eagle_loss_decay_factor,
             "Step k's loss is weighted by this to the power of k.")
      .field("eagle_architecture_config", &C::eagle_architecture_config,
             "The draft decoder; merged over the EAGLE-3 defaults, key by key.")
      .field("eagle_decoder_type", &C::eagle_decoder_type, "Kind of decoder layer: llama.")
      .field("eagle_ttt_steps", &C::eagle_ttt_steps, "Steps of training-time test, 1 to 64.")
      .field(
          "eagle_mix_hidden_states", &C::eagle_mix_hidden_states,
          "Replace a random share of the hidden states by the draft's own, without a step cache.")
      .field("eagle_use_torch_compile", &C::eagle_use_torch_compile,
             "Nothing is compiled at run time: no effect.")
      .field("eagle_enable_nvtx", &C::eagle_enable_nvtx, "Mark profiling ranges on CUDA.")
      .field("eagle_export_rope_scaling", &C::eagle_export_rope_scaling,
             "Rope scaling written at export when training used the default type; {} writes none.")
      .field("eagle_base_lora", &C::eagle_base_lora, "Train the base with low-rank adapters.")
      .field("eagle_base_lora_rank", &C::eagle_base_lora_rank, "Rank of the adapters.")
      .field("eagle_base_lora_alpha", &C::eagle_base_lora_alpha, "Scale of the adapters.")
      .field("eagle_base_lora_target_modules", &C::eagle_base_lora_target_modules,
             "Modules that get adapters.")
      .field("eagle_base_lora_preservation_loss_weight",
             &C::eagle_base_lora_preservation_loss_weight,
             "Weight of the loss that keeps the base's distribution.")
      .field("eagle_base_lora_warmup_steps", &C::eagle_base_lora_warmup_steps,
             "Steps before the adapters train.")
      .field("eagle_base_lora_start_layer", &C::eagle_base_lora_start_layer,
             "First layer that gets adapters.")
      .field("eagle_base_lora_logits_detach_prob", &C::eagle_base_lora_logits_detach_prob,
             "Probability that a step's targets carry no gradient into the adapters.");
  return schema;
}

StructSchema<Architecture> make_architecture_schema() {
  using A = Architecture;
  const Constraint<int64_t> size{.minimum = 1, .maximum = int64_t{1} << 24, .choices = {}};
  const Constraint<int64_t> heads{.minimum = 1, .maximum = 65536, .choices = {}};
  StructSchema<A> schema("eagle_architecture_config");
  schema.field("hidden_act", &A::hidden_act, "Activation.", {{}, {}, {"silu"}})
      .field("torch_dtype", &A::torch_dtype, "Ignored: the draft has the base's type.")
      .field("position_embedding_type", &A::position_embedding_type, "Kind.", {{}, {}, {"rope"}})
      .field("rope_scaling", &A::rope_scaling, "Rotary scaling.")
      .field("rope_theta", &A::rope_theta, "Rotary base.")
      .field("hidden_size", &A::hidden_size, "The base's.", size)
      .field("draft_hidden_size", &A::draft_hidden_size, "Of the draft; default: the base's.", size)
      .field("vocab_size", &A::vocab_size, "The base's.", size)
      .field("draft_vocab_size", &A::draft_vocab_size, "Tokens that the draft can propose.", size)
      .field("max_position_embeddings", &A::max_position_embeddings, "The base's.", size)
      .field("num_hidden_layers", &A::num_hidden_layers, "Decoder layers.", {1, 64, {}})
      .field("intermediate_size", &A::intermediate_size, "Of the MLP.", size)
      .field("num_attention_heads", &A::num_attention_heads, "Query heads.", heads)
      .field("num_key_value_heads", &A::num_key_value_heads, "Key heads.", heads)
      .field("head_dim", &A::head_dim, "Size of a head.", heads)
      .field("initializer_range", &A::initializer_range, "Ignored, as by the reference.")
      .field("rms_norm_eps", &A::rms_norm_eps, "Of every norm.")
      .field("attention_dropout", &A::attention_dropout, "Must be 0.", {0.0, 0.0, {}})
      .field("mlp_bias", &A::mlp_bias, "Biases in the MLP.")
      .field("attention_bias", &A::attention_bias, "Biases in the attention.")
      .field("use_input_layernorm_in_first_layer", &A::use_input_layernorm_in_first_layer,
             "Ignored, as by the reference.")
      .field("use_last_layernorm", &A::use_last_layernorm, "A norm before the head.")
      .field("use_aux_hidden_state", &A::use_aux_hidden_state,
             "Read several layers (EAGLE-3), or the last state (EAGLE-1, EAGLE-MTP).")
      .field("use_mtp_layernorm", &A::use_mtp_layernorm,
             "EAGLE-MTP: norms of embedding and hidden state.")
      .field("has_lm_head", &A::has_lm_head, "A head of the draft's own.")
      .field("has_embeddings", &A::has_embeddings, "Token embeddings of the draft's own.")
      .field("norm_before_residual", &A::norm_before_residual,
             "EAGLE-3: the first layer adds to the normed state, as speculators does.")
      .field("eagle_aux_hidden_state_layer_ids", &A::eagle_aux_hidden_state_layer_ids,
             "Layers whose outputs are read; empty: 1, L/2-1, L-4.")
      .field("parallel_draft_step", &A::parallel_draft_step,
             "Tokens per draft step: 1, or 1 + parallel heads.", heads)
      .field("parallel_draft_heads_num_layers", &A::parallel_draft_heads_num_layers,
             "Residual blocks per parallel head.", heads);
  return schema;
}

}  // namespace

const StructSchema<EagleConfig>& eagle_schema() {
  static const auto& schema = *new StructSchema<EagleConfig>(make_eagle_schema());
  return schema;
}

const StructSchema<Architecture>& architecture_schema() {
  static const auto& schema = *new StructSchema<Architecture>(make_architecture_schema());
  return schema;
}

}  // namespace outrider::eagle
