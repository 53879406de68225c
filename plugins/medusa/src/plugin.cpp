#include "outrider/sdk/plugin.h"

#include "medusa_mode.h"
#include "residual_block.h"

OUTRIDER_PLUGIN(registrar) {
  outrider::medusa::register_residual_block();
  registrar.add(std::make_unique<outrider::medusa::MedusaMode>());
}
