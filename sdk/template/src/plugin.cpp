#include "outrider/sdk/plugin.h"

#include "config.h"
#include "draft.h"
#include "outrider/sdk/simple_mode.h"

OUTRIDER_PLUGIN(registrar) {
  registrar.add(std::make_unique<outrider::SimpleMode<@name@_plugin::Draft, @name@_plugin::Config>>(
      "@name@", "Linear heads on the base's last hidden state.", "@name@_heads",
      @name@_plugin::schema(),
      std::vector<outrider::Preset>{
          {"@NAME@_4_HEADS", "Four heads, for longer drafts.", {{"num_heads", 4}}}}));
}
