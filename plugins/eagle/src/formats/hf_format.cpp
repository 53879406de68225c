#include "hf_format.h"

#include <fmt/format.h>

#include "eagle_config_keys.h"
#include "foreign_export.h"
#include "foreign_import.h"
#include "foreign_rope.h"

namespace outrider::eagle {
namespace hf_files {
namespace {

constexpr const char* kName = "hf";
constexpr const char* kArchitecture = "LlamaForCausalLMEagle3";

// Those of eagle_config that eagle_architecture_config has under the same name.
constexpr const char* kSharedKeys[] = {"use_aux_hidden_state", "use_input_layernorm_in_first_layer",
                                       "use_last_layernorm",   "use_mtp_layernorm",
                                       "parallel_draft_step",  "parallel_draft_heads_num_layers"};

Json eagle_config(const EagleDraft& draft, const Json& architecture) {
  Json json = {{kAuxLayerIds, draft.settings().aux_layer_ids}, {"next_layer_regular", true}};
  for (const char* key : kSharedKeys) json[key] = architecture.at(key);
  return json;
}

// A field of Llama's config class alone, with a default of its own.
Json pretraining_tp(const ModelConfig& base) {
  const auto usual = base.architecture == "LlamaForCausalLM" ? Json(1) : Json();
  return base.raw.value("pretraining_tp", usual);
}

void refuse_what_modelopt_lacks(const Architecture& a) {
  Refusals refusals(kName);
  refuse_speculators_settings(refusals, a);
  refusals.when(a.draft_hidden_size != a.hidden_size,
                fmt::format("draft_hidden_size={}: what reads this format gives a draft the base's "
                            "width of {}",
                            a.draft_hidden_size, a.hidden_size));
  refusals.finish();
}

void write(const ExportContext& context, const std::filesystem::path& folder) {
  const auto& draft = draft_of(context, kName);
  refuse_what_modelopt_lacks(draft.settings().architecture);
  const auto& config = context.draft.state.config;
  const auto& architecture = config.at("eagle_architecture_config");
  auto json = decoder_keys(context, draft);
  json["architectures"] = {kArchitecture};
  json["transformers_version"] = nullptr;
  json["pretraining_tp"] = pretraining_tp(context.model.config());
  json["rope_scaling"] = served_rope_scaling(config);
  json["rope_theta"] = architecture.at("rope_theta");
  json["eagle_config"] = eagle_config(draft, architecture);
  write_draft(context, draft_tensors(context, draft), json, folder);
}

bool probe(const std::filesystem::path& folder) {
  return names_architecture(probed_config(folder), kArchitecture) &&
         has_tensor_prefix(folder, "layers.") && !has_tensor_prefix(folder, "midlayer.");
}

ImportedDraft read(const std::filesystem::path& folder) {
  auto files = DraftFiles::read(folder);
  ConfigProblems problems(files.origin);
  problems.when(!names_architecture(files.config, kArchitecture),
                fmt::format("'architectures' is not [\"{}\"]", kArchitecture));
  DecoderMeaning meaning{.decoder = files.config,
                         .draft_vocab_size = files.config.value("draft_vocab_size", Json())};
  const auto eagle = eagle_config_of(files.config, problems);
  meaning.aux_layer_ids = layer_ids(eagle, kAuxLayerIds, 0, problems);
  meaning.architecture["norm_before_residual"] =
      flag(files.config, "norm_before_residual", false, problems);
  problems.finish();
  for (const char* key : kSharedKeys) {
    if (eagle.contains(key)) meaning.architecture[key] = eagle[key];
  }
  return imported_draft(std::move(files), std::move(meaning),
                        {.maps = MapsInFiles::kOptionalT2d,
                         .head_is_optional = true,
                         .layers_key = kAuxLayerIdsPath});
}

}  // namespace
}  // namespace hf_files

ForeignFormat hf_format() {
  using namespace hf_files;
  return {.name = kName,
          .description = "ModelOpt's export layout, read by TensorRT-LLM, vLLM and SGLang",
          .probe = probe,
          .write = write,
          .read = read};
}

}  // namespace outrider::eagle
