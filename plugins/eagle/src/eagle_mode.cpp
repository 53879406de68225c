#include "eagle_mode.h"

#include <fmt/format.h>

#include "config/architecture.h"
#include "config/config_rules.h"
#include "config/eagle_schema.h"
#include "draft/eagle_draft.h"
#include "formats/eagle_format.h"
#include "formats/hf_format.h"
#include "formats/modelopt_record.h"
#include "formats/sglang_format.h"
#include "formats/vllm_format.h"
#include "outrider/error.h"
#include "outrider/model/draft_model_registry.h"

namespace outrider::eagle {
namespace {

// Fields that a ModelOpt release does not have get the value that it behaves as.
void apply_numerics(EagleConfig& config, const Numerics& numerics) {
  if (numerics.fixed_ttt_steps == 0) return;
  config.eagle_ttt_steps = numerics.fixed_ttt_steps;
  config.eagle_export_rope_scaling = Json::object();
}

std::vector<BaseEdit> base_edits(const EagleConfig& config) {
  std::vector<BaseEdit> edits;
  if (config.eagle_freeze_base_model) edits.push_back(BaseEdit::kFreezeParameters);
  if (config.eagle_offline) edits.push_back(BaseEdit::kDropDecoderLayers);
  return edits;
}

DraftSettings draft_settings(const EagleConfig& config, const Architecture& architecture,
                             const Numerics& numerics, int64_t base_layers) {
  return {
      .architecture = architecture,
      .aux_layer_ids = aux_layer_ids(architecture, base_layers),
      .ttt_steps = config.eagle_ttt_steps,
      .loss_decay_factor = config.eagle_loss_decay_factor,
      .numerics = numerics,
      .mixes_hidden_states = config.eagle_mix_hidden_states,
      .trains_on_tokens = !config.eagle_self_logit_distillation && !numerics.always_soft_targets,
      .divergence = divergence_of(config.eagle_loss).value()};
}

std::shared_ptr<Draft> make_draft(const BaseInfo& base, const DraftSettings& settings,
                                  const Conversion& conversion) {
  const auto other = DraftModelRegistry::instance().find("eagle", base.architecture);
  if (other) return other(base, conversion.config, conversion.metadata);
  auto draft = std::make_shared<EagleDraft>(base, settings);
  if (base.draft_vocabulary.defined() && base.draft_vocabulary.size(0) < base.vocab_size) {
    draft->set_draft_vocabulary(base.draft_vocabulary);
  }
  return draft;
}

Conversion build(const BaseInfo& base, EagleConfig config, const std::string& reference) {
  refuse_values(config);
  refuse_unsupported(config);
  const auto numerics = Numerics::parse(reference);
  Conversion conversion{.attribute = "eagle_module"};
  config.eagle_architecture_config = resolve_architecture(base, config, numerics, conversion.notes);
  const auto architecture = typed_architecture(config.eagle_architecture_config);
  refuse_combinations(config, architecture, numerics);
  for (auto& note : notes_on(config, architecture, numerics)) conversion.notes.push_back(note);
  apply_numerics(config, numerics);
  check_export_rope(config.eagle_architecture_config, config.eagle_export_rope_scaling);
  const auto settings = draft_settings(config, architecture, numerics, base.num_layers);
  conversion.base_edits = base_edits(config);
  conversion.config = eagle_schema().dump(config);
  conversion.metadata = {{"aux_layer_ids", settings.aux_layer_ids},
                         {"draft_vocab_size", architecture.draft_vocab_size},
                         {"reference_numerics", reference.empty() ? Json() : Json(reference)}};
  conversion.labels_stand_alone = !reference.empty();
  conversion.draft = make_draft(base, settings, conversion);
  return conversion;
}

std::string recorded_numerics(const Json& metadata) {
  const auto found = metadata.find("reference_numerics");
  if (found == metadata.end() || found->is_null()) return "";
  if (!found->is_string()) {
    throw Error(ErrorCode::kInvalidFile,
                "eagle: metadata 'reference_numerics' must be null, \"0.47\" or \"0.42\"");
  }
  return found->get<std::string>();
}

}  // namespace

const ConfigSchema& EagleMode::config_schema() const { return eagle_schema(); }

std::vector<Preset> EagleMode::presets() const {
  const auto config_of = [](const PresetConstant& preset) { return preset.config(); };
  return {{"eagle3",
           "EAGLE-3 with all sizes and the rotary embedding of the base",
           {{"eagle_reuse_base_decoder", true}, {"eagle_export_rope_scaling", Json::object()}}},
          {"EAGLE3_DEFAULT_CFG", "ModelOpt 0.47's EAGLE-3", config_of(EAGLE3_DEFAULT_CFG)},
          {"EAGLE1_DEFAULT_CFG", "ModelOpt 0.42's EAGLE-1", config_of(EAGLE1_DEFAULT_CFG)},
          {"EAGLE_MTP_DEFAULT_CFG", "ModelOpt 0.47's EAGLE-MTP", config_of(EAGLE_MTP_DEFAULT_CFG)}};
}

Conversion EagleMode::convert(const BaseInfo& base, const Json& config) const {
  return build(base, eagle_schema().parse(config), base.reference_numerics);
}

Conversion EagleMode::restore(const BaseInfo& base, const Json& config,
                              const Json& metadata) const {
  const bool is_foreign = is_modelopt_record(metadata);
  if (is_foreign) refuse_unread_keys(config.at("eagle_architecture_config"));
  auto restored = build(base, eagle_schema().parse(config), recorded_numerics(metadata));
  if (is_foreign) return restored;
  restored.config = config;
  if (metadata["aux_layer_ids"] != restored.metadata["aux_layer_ids"]) {
    throw Error(
        ErrorCode::kIncompatibleCheckpoint,
        fmt::format("eagle: the checkpoint was trained on the layers {}, its config gives {}",
                    metadata["aux_layer_ids"].dump(), restored.metadata["aux_layer_ids"].dump()));
  }
  return restored;
}

std::vector<ForeignFormat> EagleMode::formats() const {
  return {hf_format(), eagle_format(), sglang_format(), vllm_format()};
}

std::optional<ModelOptMapping> EagleMode::modelopt_mapping() const {
  return ModelOptMapping{.class_prefix = "Eagle",
                         .config_key = {},
                         .needs_reference_numerics = true,
                         .read = config_of_modelopt,
                         .write = config_for_modelopt};
}

}  // namespace outrider::eagle
