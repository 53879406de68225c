#include "outrider/sdk/plugin.h"

#include "kernels/residual_block.h"
#include "medusa_mode.h"

OUTRIDER_PLUGIN(registrar) {
  outrider::medusa::register_residual_block();
  registrar.add(std::make_unique<outrider::medusa::MedusaMode>());
}
