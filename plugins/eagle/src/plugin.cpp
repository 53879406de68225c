#include "outrider/sdk/plugin.h"

#include "eagle_mode.h"
#include "kernels/double_norm_concat.h"

OUTRIDER_PLUGIN(registrar) {
  outrider::eagle::register_double_norm_concat();
  registrar.add(std::make_unique<outrider::eagle::EagleMode>());
}
