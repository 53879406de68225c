#include "eagle_mode.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "architecture.h"
#include "eagle_draft.h"
#include "eagle_schema.h"
#include "hf_format.h"
#include "outrider/error.h"

namespace outrider::eagle {
namespace {

void refuse_unsupported(const EagleConfig& config, const Architecture& a) {
  std::vector<std::string> reasons;
  const auto refuse = [&](bool condition, const char* reason) {
    if (condition) reasons.push_back(reason);
  };
  refuse(config.eagle_decoder_type != "llama", "eagle_decoder_type other than 'llama'");
  refuse(config.eagle_base_lora, "eagle_base_lora=true");
  refuse(config.eagle_hidden_state_distillation, "eagle_hidden_state_distillation=true");
  refuse(!config.eagle_self_logit_distillation, "eagle_self_logit_distillation=false");
  refuse(config.eagle_offline, "eagle_offline=true");
  refuse(config.eagle_mix_hidden_states, "eagle_mix_hidden_states=true");
  refuse(!a.use_aux_hidden_state, "use_aux_hidden_state=false (EAGLE-1, EAGLE-MTP)");
  refuse(a.parallel_draft_step != 1, "parallel_draft_step other than 1");
  if (reasons.empty()) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("mode 'eagle' does not support {} yet", fmt::join(reasons, ", ")),
              "`outrider mode show eagle` lists the fields");
}

std::vector<std::string> notes_on(const EagleConfig& config) {
  std::vector<std::string> notes;
  if (config.eagle_enable_nvtx) notes.push_back("eagle_enable_nvtx has no effect");
  if (!config.eagle_report_acc) {
    notes.push_back("eagle_report_acc=false has no effect: accuracies are always reported");
  }
  return notes;
}

Conversion build(const BaseInfo& base, EagleConfig config, const std::string& reference) {
  auto notes = notes_on(config);
  config.eagle_architecture_config = resolve_architecture(base, config, notes);
  const auto architecture = typed_architecture(config.eagle_architecture_config);
  refuse_unsupported(config, architecture);
  const auto layers = aux_layer_ids(architecture, base.num_layers);
  auto draft = std::make_shared<EagleDraft>(
      base, DraftSettings{architecture, layers, config.eagle_ttt_steps,
                          config.eagle_loss_decay_factor, Numerics::parse(reference)});
  Conversion conversion{"eagle_module", draft, {}, eagle_schema().dump(config), Json::object(),
                        std::move(notes)};
  if (config.eagle_freeze_base_model) conversion.base_edits = {BaseEdit::kFreezeParameters};
  conversion.metadata = {{"aux_layer_ids", layers},
                         {"draft_vocab_size", architecture.draft_vocab_size},
                         {"reference_numerics", reference.empty() ? Json() : Json(reference)}};
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
  return {{"eagle3", "EAGLE-3 with all sizes and the rotary embedding of the base",
           {{"eagle_reuse_base_decoder", true}, {"eagle_export_rope_scaling", Json::object()}}},
          {"EAGLE3_DEFAULT_CFG", "ModelOpt 0.47's EAGLE-3", config_of(EAGLE3_DEFAULT_CFG)},
          {"EAGLE1_DEFAULT_CFG", "ModelOpt 0.42's EAGLE-1", config_of(EAGLE1_DEFAULT_CFG)},
          {"EAGLE_MTP_DEFAULT_CFG", "ModelOpt 0.47's EAGLE-MTP",
           config_of(EAGLE_MTP_DEFAULT_CFG)}};
}

Conversion EagleMode::convert(const BaseInfo& base, const Json& config) const {
  auto conversion = build(base, eagle_schema().parse(config), base.reference_numerics);
  if (base.draft_vocabulary.defined() && base.draft_vocabulary.size(0) < base.vocab_size) {
    std::static_pointer_cast<EagleDraft>(conversion.draft)
        ->set_draft_vocabulary(base.draft_vocabulary);
  }
  return conversion;
}

Conversion EagleMode::restore(const BaseInfo& base, const Json& config,
                              const Json& metadata) const {
  auto restored = build(base, eagle_schema().parse(config), recorded_numerics(metadata));
  restored.config = config;
  if (metadata.contains("aux_layer_ids") &&
      metadata["aux_layer_ids"] != restored.metadata["aux_layer_ids"]) {
    throw Error(ErrorCode::kIncompatibleCheckpoint,
                fmt::format("eagle: the checkpoint was trained on the layers {}, its config gives {}",
                            metadata["aux_layer_ids"].dump(),
                            restored.metadata["aux_layer_ids"].dump()));
  }
  return restored;
}

std::vector<ForeignFormat> EagleMode::formats() const { return {hf_format()}; }

}  // namespace outrider::eagle
