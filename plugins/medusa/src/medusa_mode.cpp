#include "medusa_mode.h"

#include "formats/medusa_format.h"
#include "outrider/config/struct_schema.h"

namespace outrider::medusa {
namespace {

StructSchema<MedusaConfig> make_schema() {
  using C = MedusaConfig;
  StructSchema<C> schema("MedusaConfig");
  schema
      .field("medusa_num_heads", &C::medusa_num_heads, "Heads, 0 to 64; head i predicts token i+2.")
      .field("medusa_num_layers", &C::medusa_num_layers, "Residual blocks per head, 0 to 64.")
      .field("medusa_freeze_base_model", &C::medusa_freeze_base_model,
             "Do not train the base; false is Medusa-2.", {{}, {}, {}, /*extension=*/true})
      .field("medusa_heads_coefficient", &C::medusa_heads_coefficient,
             "Weight of the heads' losses.", {{}, {}, {}, /*extension=*/true})
      .field("medusa_decay_coefficient", &C::medusa_decay_coefficient,
             "Head i's loss is weighted by this to the power of i.",
             {{}, {}, {}, /*extension=*/true});
  return schema;
}

const StructSchema<MedusaConfig>& medusa_schema() {
  static const auto& schema = *new StructSchema<MedusaConfig>(make_schema());
  return schema;
}

}  // namespace

MedusaMode::MedusaMode()
    : SimpleMode("medusa", "Medusa: heads that predict the tokens after the next", "medusa_heads",
                 medusa_schema(),
                 {{"medusa",
                   "Four heads of one residual block, sized like the base",
                   {{"medusa_num_heads", 4}, {"medusa_num_layers", 1}}}}) {}

// The draft reads from the base which numerics are wanted; the record says it to restore().
Conversion MedusaMode::convert(const BaseInfo& base, const Json& config) const {
  auto conversion = SimpleMode::convert(base, config);
  conversion.metadata["reference_numerics"] =
      base.reference_numerics.empty() ? Json() : Json(base.reference_numerics);
  conversion.labels_stand_alone = !base.reference_numerics.empty();
  return conversion;
}

Conversion MedusaMode::restore(const BaseInfo& base, const Json& config,
                               const Json& metadata) const {
  auto converted = base;
  const auto numerics = metadata.value("reference_numerics", Json());
  converted.reference_numerics = numerics.is_string() ? numerics.get<std::string>() : "";
  auto conversion = SimpleMode::restore(converted, config, metadata);
  conversion.labels_stand_alone = !converted.reference_numerics.empty();
  return conversion;
}

std::vector<ForeignFormat> MedusaMode::formats() const { return {medusa_format()}; }

std::optional<ModelOptMapping> MedusaMode::modelopt_mapping() const {
  return ModelOptMapping{.class_prefix = "Medusa", .config_key = "medusa", .read = {}, .write = {}};
}

std::vector<BaseEdit> MedusaMode::base_edits(const MedusaConfig& config) const {
  if (!config.medusa_freeze_base_model) return {};
  return {BaseEdit::kFreezeParameters};
}

}  // namespace outrider::medusa
