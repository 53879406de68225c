#include "hydra_mode.h"

#include "hydra_format.h"

namespace hydra {
namespace {

using Schema = outrider::StructSchema<HydraConfig>;

Schema make_schema() {
  using C = HydraConfig;
  Schema schema("HydraConfig");
  schema
      .field("hydra_num_heads", &C::hydra_num_heads,
             "Heads; head i predicts token i+2 and reads the tokens before it.", {1, 64, {}})
      .field("hydra_num_layers", &C::hydra_num_layers,
             "Residual blocks per head; the first also narrows the head's input.", {1, 64, {}})
      .field("hydra_loss", &C::hydra_loss,
             "What heads are trained on: the data's tokens, or the base's own distribution.",
             {{}, {}, {"label", "teacher"}})
      .field("hydra_heads_coefficient", &C::hydra_heads_coefficient, "Weight of the heads' losses.",
             {0.0, 1e6, {}})
      .field("hydra_decay_coefficient", &C::hydra_decay_coefficient,
             "Head i's loss is weighted by this to the power of i.", {0.0, 1e3, {}})
      .field("hydra_freeze_base_model", &C::hydra_freeze_base_model,
             "Do not train the base; the original never does.");
  return schema;
}

const Schema& schema() {
  static const auto& only = *new Schema(make_schema());
  return only;
}

std::vector<outrider::Preset> hydra_presets() {
  return {{"hydra",
           "Four heads of one block, trained on the data's tokens",
           {{"hydra_num_heads", 4}, {"hydra_num_layers", 1}, {"hydra_loss", "label"}}},
          {"hydra_teacher",
           "Four heads of four blocks, trained on the base's distribution: Hydra++ without its "
           "prefix attention",
           {{"hydra_num_heads", 4}, {"hydra_num_layers", 4}, {"hydra_loss", "teacher"}}}};
}

}  // namespace

HydraMode::HydraMode()
    : SimpleMode("hydra", "Hydra: Medusa's heads, each reading the tokens drafted before it",
                 "hydra_head", schema(), hydra_presets()) {}

std::vector<outrider::ForeignFormat> HydraMode::formats() const { return {hydra_format()}; }

std::vector<outrider::BaseEdit> HydraMode::base_edits(const HydraConfig& config) const {
  if (!config.hydra_freeze_base_model) return {};
  return {outrider::BaseEdit::kFreezeParameters};
}

}  // namespace hydra
