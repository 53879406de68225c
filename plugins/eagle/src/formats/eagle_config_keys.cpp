#include "eagle_config_keys.h"

#include <fmt/format.h>

#include <set>
#include <string>

#include "outrider/text.h"

namespace outrider::eagle {

Json eagle_config_of(const Json& config, ConfigProblems& problems) {
  static const std::set<std::string> known = {
      kAuxLayerIds,           "next_layer_regular",
      "use_aux_hidden_state", "use_input_layernorm_in_first_layer",
      "use_last_layernorm",   "use_mtp_layernorm",
      "parallel_draft_step",  "parallel_draft_heads_num_layers"};
  const auto found = config.value("eagle_config", Json::object());
  problems.when(!found.is_object(), "'eagle_config' is no object");
  if (!found.is_object()) return Json::object();
  for (const auto& [key, value] : found.items()) {
    problems.when(!known.contains(key),
                  fmt::format("'eagle_config.{}' is not known", printable(key)));
  }
  return found;
}

}  // namespace outrider::eagle
