#pragma once

#include <string>
#include <vector>

#include "outrider/error.h"
#include "outrider/json.h"

namespace outrider {

/// The error about an architecture that is not among `known`: what its config.json tells of it (the
/// text model inside a multimodal one, experts, quantisation) and what can be done. `config` may be
/// any JSON.
Error unknown_architecture(const std::string& architecture, const Json& config,
                           const std::vector<std::string>& known);

/// Why the model of a config.json, an object, is refused as quantised, by the method's name; empty
/// where it is not.
std::string quantisation_problem(const Json& config);

}  // namespace outrider
