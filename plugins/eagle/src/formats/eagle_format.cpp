#include "eagle_format.h"

#include <fmt/format.h>

#include "foreign_export.h"
#include "foreign_import.h"
#include "foreign_rope.h"
#include "outrider/text.h"

namespace outrider::eagle {
namespace eagle_files {
namespace {

constexpr const char* kName = "eagle";
constexpr const char* kArchitecture = "LlamaForCausalLM";
constexpr const char* kFirstLayer = "midlayer.";
// The theta of a scaled rotary embedding, whatever the config says.
constexpr double kScaledTheta = 10000.0;

bool is_scaled(const Json& rope_type) { return rope_type == "linear" || rope_type == "dynamic"; }

// Its program reads the outputs of the layers before L's number 2, L/2 and L-3.
bool reads_fixed_layers(const EagleDraft& draft, int64_t num_layers) {
  const std::vector<int64_t> fixed = {1, num_layers / 2 - 1, num_layers - 4};
  return draft.settings().aux_layer_ids == fixed;
}

void refuse(const ExportContext& context, const EagleDraft& draft, const Json& rope) {
  const auto& a = draft.settings().architecture;
  const int64_t layers = context.model.config().num_hidden_layers;
  const auto type = rope.at("rope_type").get<std::string>();
  Refusals refusals(kName);
  refuse_variants(refusals, draft.settings());
  refuse_other_than_three_layers(refusals, draft.settings());
  refuse_speculators_settings(refusals, a);
  refuse_beyond_one_layer(refusals, a);
  refusals
      .when(a.use_aux_hidden_state && draft.settings().aux_layer_ids.size() == 3 &&
                !reads_fixed_layers(draft, layers),
            fmt::format("eagle_aux_hidden_state_layer_ids: EAGLE's program always reads the layers "
                        "1, L/2-1 and L-4 of the base, which has L={}",
                        layers))
      .when(type != "default" && !is_scaled(type),
            fmt::format("rope type '{}' (of rope_scaling, or of eagle_export_rope_scaling): known "
                        "are default, linear and dynamic",
                        type))
      .when(is_scaled(type) && rope.at("rope_theta") != kScaledTheta,
            fmt::format("rope_theta={}: a {} rotary embedding always has 10000",
                        rope.at("rope_theta").dump(), type))
      .finish();
}

Json config_of(const ExportContext& context, const EagleDraft& draft, const Json& rope) {
  auto json = decoder_keys(context, draft);
  json["architectures"] = {kArchitecture};
  json["rope_theta"] = rope.at("rope_theta");
  json["rope_scaling"] = rope.contains("factor")
                             ? Json{{"type", rope.at("rope_type")}, {"factor", rope.at("factor")}}
                             : Json();
  if (const auto width = target_width(draft.settings().architecture); !width.is_null()) {
    json["target_hidden_size"] = width;
  }
  return json;
}

void write(const ExportContext& context, const std::filesystem::path& folder) {
  const auto& draft = draft_of(context, kName);
  const auto& a = draft.settings().architecture;
  const auto rope = rope_meaning(served_rope(context.draft.state.config));
  refuse(context, draft, rope);
  refuse_reference_numerics(context, draft, kName);
  auto tensors = with_first_layer(draft_tensors(context, draft), kFirstLayer);
  const VocabularySizes sizes{a.vocab_size, a.draft_vocab_size};
  if (sizes.reduced()) add_vocabulary_maps(tensors, sizes);
  write_draft(context, tensors, config_of(context, draft, rope), folder);
}

bool probe(const std::filesystem::path& folder) {
  const auto config = probed_config(folder);
  return names_architecture(config, kArchitecture) &&
         (config.contains("draft_vocab_size") || has_tensor_prefix(folder, kFirstLayer));
}

// In the words of its own program, which reads "type" and, for a scaled one, no theta.
void convert_rope(Json& decoder, ConfigProblems& problems) {
  decoder.erase("rope_parameters");
  const auto scaling = decoder.value("rope_scaling", Json());
  if (scaling.is_null()) return;
  const auto type = scaling.is_object() ? scaling.value("type", Json()) : Json();
  problems.when(!is_scaled(type),
                fmt::format("'rope_scaling' is {}, EAGLE's program knows null and the types linear "
                            "and dynamic",
                            printable(scaling.dump())));
  decoder["rope_theta"] = kScaledTheta;
}

ImportedDraft read(const std::filesystem::path& folder) {
  auto files = DraftFiles::read(folder);
  ConfigProblems problems(files.origin);
  DecoderMeaning meaning{.decoder = files.config,
                         .draft_vocab_size = files.config.value("draft_vocab_size", Json())};
  convert_rope(meaning.decoder, problems);
  for (const char* key : {"attention_bias", "mlp_bias"}) meaning.decoder[key] = false;
  check_plain_residual(files.config, problems);
  problems
      .when(!names_architecture(files.config, kArchitecture),
            fmt::format("'architectures' is not [\"{}\"]", kArchitecture))
      .finish();
  return imported_draft(std::move(files), std::move(meaning), {.first_layer = kFirstLayer});
}

}  // namespace
}  // namespace eagle_files

ForeignFormat eagle_format() {
  using namespace eagle_files;
  return {.name = kName,
          .description = "SafeAILab's EAGLE-3 layout",
          .probe = probe,
          .write = write,
          .read = read};
}

}  // namespace outrider::eagle
