#include "hf_format.h"

#include <fmt/format.h>

#include "eagle_draft.h"
#include "outrider/checkpoint/json_file.h"
#include "outrider/error.h"

namespace outrider::eagle {
namespace {

const EagleDraft& draft_of(const ExportContext& context) {
  if (const auto* draft = dynamic_cast<const EagleDraft*>(context.draft.draft.get())) return *draft;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("format 'hf' cannot hold the draft that another plugin brought for {}",
                          context.model.config().architecture),
              "export it with a format of that plugin");
}

// The names inside the draft are the exported names; a draft without a head gets the base's.
TensorMap exported_tensors(const ExportContext& context) {
  TensorMap tensors;
  for (const auto& item : draft_of(context).named_parameters()) tensors[item.key()] = item.value();
  for (const auto& item : draft_of(context).named_buffers()) tensors[item.key()] = item.value();
  tensors.emplace("lm_head.weight", context.model.head().weight());
  return tensors;
}

bool trains_with_default_rope(const Json& architecture) {
  const auto& rope = architecture.at("rope_scaling");
  return rope.value("rope_type", rope.value("type", "default")) == "default";
}

Json rope_scaling(const Json& config) {
  const auto& architecture = config.at("eagle_architecture_config");
  const auto& replacement = config.at("eagle_export_rope_scaling");
  return trains_with_default_rope(architecture) && !replacement.empty()
             ? replacement
             : architecture.at("rope_scaling");
}

Json eagle_config(const EagleDraft& draft, const Json& architecture) {
  Json json = {{"eagle_aux_hidden_state_layer_ids", draft.settings().aux_layer_ids},
               {"next_layer_regular", true}};
  for (const char* key :
       {"use_aux_hidden_state", "use_input_layernorm_in_first_layer", "use_last_layernorm",
        "use_mtp_layernorm", "parallel_draft_step", "parallel_draft_heads_num_layers"}) {
    json[key] = architecture.at(key);
  }
  return json;
}

// A field of Llama's config class alone, with a default of its own.
Json pretraining_tp(const ModelConfig& base) {
  const auto usual = base.architecture == "LlamaForCausalLM" ? Json(1) : Json();
  return base.raw.value("pretraining_tp", usual);
}

Json exported_config(const ExportContext& context) {
  const auto& base = context.model.config();
  const auto& config = context.draft.state.config;
  const auto& architecture = config.at("eagle_architecture_config");
  Json json = {{"architectures", {"LlamaForCausalLMEagle3"}},
               {"model_type", "llama"},
               {"tie_word_embeddings", false},
               {"use_cache", true},
               {"transformers_version", nullptr},
               {"torch_dtype", dtype_name(context.model.dtype())},
               {"pretraining_tp", pretraining_tp(base)},
               {"rope_scaling", rope_scaling(config)},
               {"eagle_config", eagle_config(draft_of(context), architecture)}};
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    json[key] = base.raw.value(key, Json());
  }
  for (const char* key :
       {"hidden_act", "hidden_size", "initializer_range", "intermediate_size",
        "max_position_embeddings", "num_attention_heads", "num_key_value_heads",
        "num_hidden_layers", "rms_norm_eps", "vocab_size", "draft_vocab_size", "attention_bias",
        "attention_dropout", "head_dim", "mlp_bias", "rope_theta"}) {
    json[key] = architecture.at(key);
  }
  return json;
}

void write(const ExportContext& context, const std::filesystem::path& folder) {
  write_tensors(folder / "model.safetensors", exported_tensors(context));
  write_json_file(folder / "config.json", exported_config(context));
}

}  // namespace

ForeignFormat hf_format() {
  return {.name = "hf",
          .description = "ModelOpt's export layout, read by TensorRT-LLM, vLLM and SGLang",
          .probe = {},
          .write = write,
          .read = {}};
}

}  // namespace outrider::eagle
