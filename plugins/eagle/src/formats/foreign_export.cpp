#include "foreign_export.h"

#include <fmt/format.h>

#include "foreign_rope.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/sdk/draft_record.h"
#include "outrider/text.h"

namespace outrider::eagle {

const EagleDraft& draft_of(const ExportContext& context, const std::string& format) {
  if (const auto* draft = dynamic_cast<const EagleDraft*>(context.draft.draft.get())) return *draft;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("format '{}' cannot hold the draft that another plugin brought for {}",
                          format, context.model.config().architecture),
              "export it with a format of that plugin");
}

TensorMap draft_tensors(const ExportContext& context, const EagleDraft& draft) {
  TensorMap tensors;
  for (const auto& item : draft.named_parameters()) tensors[item.key()] = item.value();
  for (const auto& item : draft.named_buffers()) tensors[item.key()] = item.value();
  tensors.emplace("lm_head.weight", context.model.head().weight());
  return tensors;
}

TensorMap with_first_layer(const TensorMap& tensors, const std::string& prefix) {
  constexpr std::string_view kOurs = "layers.0.";
  TensorMap renamed;
  for (const auto& [name, tensor] : tensors) {
    renamed[name.starts_with(kOurs) ? prefix + name.substr(kOurs.size()) : name] = tensor;
  }
  return renamed;
}

Json decoder_keys(const ExportContext& context, const EagleDraft& draft) {
  const auto& base = context.model.config();
  const auto& architecture = context.draft.state.config.at("eagle_architecture_config");
  Json json = {{"model_type", "llama"},
               {"tie_word_embeddings", false},
               {"use_cache", true},
               {"pretraining_tp", 1},
               {"torch_dtype", dtype_name(context.model.dtype())},
               {"draft_vocab_size", draft.settings().architecture.draft_vocab_size}};
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    json[key] = base.raw.value(key, Json());
  }
  for (const char* key : {"hidden_act", "hidden_size", "initializer_range", "intermediate_size",
                          "max_position_embeddings", "num_attention_heads", "num_key_value_heads",
                          "num_hidden_layers", "rms_norm_eps", "vocab_size", "attention_bias",
                          "attention_dropout", "head_dim", "mlp_bias"}) {
    json[key] = architecture.at(key);
  }
  json["hidden_size"] = draft.settings().architecture.draft_hidden_size;
  return json;
}

Refusals& Refusals::when(bool condition, const std::string& reason) {
  if (condition) reasons_.push_back(reason);
  return *this;
}

void Refusals::finish() const {
  if (reasons_.empty()) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("format '{}' cannot hold this draft:{}", format_, indented(reasons_)),
              "docs/formats.md says what each format can hold: 'hf' every draft that ModelOpt has, "
              "'vllm' the settings of speculators");
}

void refuse_variants(Refusals& refusals, const DraftSettings& settings) {
  const auto& a = settings.architecture;
  refusals
      .when(!a.use_aux_hidden_state,
            a.use_mtp_layernorm
                ? "use_mtp_layernorm=true without use_aux_hidden_state: EAGLE-MTP has no serving "
                  "engine of this format"
                : "use_aux_hidden_state=false: this EAGLE-1 has a norm before its first attention, "
                  "which the engines' has not")
      .when(a.parallel_draft_step > 1 && settings.numerics.has_parallel_heads,
            fmt::format("parallel_draft_step={}: there is no place for parallel heads",
                        a.parallel_draft_step))
      .when(!a.use_last_layernorm,
            "use_last_layernorm=false: the engines always have a norm before the head");
}

void refuse_other_than_three_layers(Refusals& refusals, const DraftSettings& settings) {
  const auto layers = settings.aux_layer_ids.size();
  refusals.when(settings.architecture.use_aux_hidden_state && layers != 3,
                fmt::format("eagle_aux_hidden_state_layer_ids: the draft reads {} layers of the "
                            "base, the engines give it 3",
                            layers));
}

void refuse_speculators_settings(Refusals& refusals, const Architecture& a) {
  refusals
      .when(a.norm_before_residual,
            "norm_before_residual=true: what reads this format adds to the state as it is")
      .when(a.has_embeddings && a.draft_hidden_size == a.hidden_size,
            "has_embeddings=true: what reads this format takes the base's");
}

Json target_width(const Architecture& a) {
  return a.draft_hidden_size == a.hidden_size ? Json() : Json(a.hidden_size);
}

void refuse_beyond_one_layer(Refusals& refusals, const Architecture& a) {
  refusals
      .when(a.num_hidden_layers != 1,
            fmt::format("num_hidden_layers={}: there is one layer", a.num_hidden_layers))
      .when(a.attention_bias, "attention_bias=true: the layer has no biases")
      .when(a.mlp_bias, "mlp_bias=true: the layer has no biases");
}

void refuse_engine_rope(Refusals& refusals, const Json& meaning) {
  refusals
      .when(meaning.at("rope_type") == "dynamic",
            "rope type 'dynamic': engines scale it once and for all, training with the length of "
            "the sequence")
      .when(meaning.at("rope_type") == "longrope",
            "rope type 'longrope': engines choose its factors once and for all, training by the "
            "length of the sequence")
      .when(has_unusual_yarn(meaning),
            "rope type 'yarn' with an attention temperature or a truncation of its own, which "
            "engines do not read");
}

void refuse_reference_numerics(const ExportContext& context, const EagleDraft& draft,
                               const std::string& format) {
  if (context.allow_train_serve_mismatch || !draft.settings().numerics.norms_hidden_twice) return;
  const auto release = context.draft.state.metadata.value("reference_numerics", Json());
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("the draft was trained with the numerics of ModelOpt {}, which norm the hidden "
                  "state twice in the first layer; what reads format '{}' norms it once, so that "
                  "it would compute other logits than training did",
                  release.is_string() ? release.get<std::string>() : "releases", format),
      "convert without --reference-numerics and train, or accept it with "
      "--allow-train-serve-mismatch");
}

void write_draft(const ExportContext& context, const TensorMap& tensors, const Json& config,
                 const std::filesystem::path& folder) {
  write_tensors(folder / "model.safetensors", tensors, DraftRecord::of(context.draft));
  write_json_file(folder / "config.json", config);
}

}  // namespace outrider::eagle
