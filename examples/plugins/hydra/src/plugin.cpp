#include "outrider/sdk/plugin.h"

#include "gather_concat.h"
#include "hydra_mode.h"

OUTRIDER_PLUGIN(registrar) {
  hydra::register_gather_concat();
  registrar.add(std::make_unique<hydra::HydraMode>());
}
