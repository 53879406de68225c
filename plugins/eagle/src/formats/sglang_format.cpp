#include "sglang_format.h"

#include <fmt/format.h>

#include "eagle_config_keys.h"
#include "foreign_export.h"
#include "foreign_import.h"
#include "foreign_rope.h"

namespace outrider::eagle {
namespace sglang_files {
namespace {

constexpr const char* kName = "sglang";
constexpr const char* kArchitecture = "LlamaForCausalLMEagle3";
constexpr const char* kFirstLayer = "midlayer.";

void refuse(const EagleDraft& draft, const Json& rope) {
  Refusals refusals(kName);
  refuse_variants(refusals, draft.settings());
  refuse_other_than_three_layers(refusals, draft.settings());
  refuse_speculators_settings(refusals, draft.settings().architecture);
  refuse_beyond_one_layer(refusals, draft.settings().architecture);
  refuse_engine_rope(refusals, rope);
  refusals.finish();
}

Json config_of(const ExportContext& context, const EagleDraft& draft, const Json& rope) {
  auto json = decoder_keys(context, draft);
  json.update(rope_keys(rope));
  json["architectures"] = {kArchitecture};
  json["eagle_config"] = {{kAuxLayerIds, draft.settings().aux_layer_ids},
                          {"use_aux_hidden_state", true}};
  if (const auto width = target_width(draft.settings().architecture); !width.is_null()) {
    json["target_hidden_size"] = width;
  }
  return json;
}

void write(const ExportContext& context, const std::filesystem::path& folder) {
  const auto& draft = draft_of(context, kName);
  const auto& a = draft.settings().architecture;
  const auto rope = rope_meaning(served_rope(context.draft.state.config));
  refuse(draft, rope);
  refuse_reference_numerics(context, draft, kName);
  auto tensors = with_first_layer(draft_tensors(context, draft), kFirstLayer);
  add_vocabulary_maps(tensors, {a.vocab_size, a.draft_vocab_size});
  write_draft(context, tensors, config_of(context, draft, rope), folder);
}

bool probe(const std::filesystem::path& folder) {
  return names_architecture(probed_config(folder), kArchitecture) &&
         has_tensor_prefix(folder, kFirstLayer);
}

// "norm_output" is SpecForge's word for the norm before the head, which Outrider's draft has.
void check_flags(const Json& config, ConfigProblems& problems) {
  problems.when(flag(config, "fc_norm", false, problems), "'fc_norm': norms before fc")
      .when(!flag(config, "norm_output", true, problems),
            "'norm_output' is false: no norm before the head")
      .when(flag(config, "bias", false, problems), "'bias': a bias of fc")
      .when(flag(config, "attention_bias", false, problems), "'attention_bias': biases")
      .when(flag(config, "mlp_bias", false, problems), "'mlp_bias': biases");
  check_plain_residual(config, problems);
}

ImportedDraft read(const std::filesystem::path& folder) {
  auto files = DraftFiles::read(folder);
  ConfigProblems problems(files.origin);
  DecoderMeaning meaning{.decoder = files.config,
                         .draft_vocab_size = files.config.value("draft_vocab_size", Json())};
  const auto eagle = eagle_config_of(files.config, problems);
  meaning.aux_layer_ids = layer_ids(eagle, kAuxLayerIds, 0, problems);
  check_flags(files.config, problems);
  check_rope_spellings(files.config, problems);
  problems
      .when(!names_architecture(files.config, kArchitecture),
            fmt::format("'architectures' is not [\"{}\"]", kArchitecture))
      .when(!flag(eagle, "use_aux_hidden_state", true, problems),
            "'eagle_config.use_aux_hidden_state' is false: this is no EAGLE-3")
      .finish();
  return imported_draft(
      std::move(files), std::move(meaning),
      {.first_layer = kFirstLayer, .maps = MapsInFiles::kAlways, .layers_key = kAuxLayerIdsPath});
}

}  // namespace
}  // namespace sglang_files

ForeignFormat sglang_format() {
  using namespace sglang_files;
  return {.name = kName,
          .description = "SpecForge's layout, read by SGLang",
          .probe = probe,
          .write = write,
          .read = read};
}

}  // namespace outrider::eagle
