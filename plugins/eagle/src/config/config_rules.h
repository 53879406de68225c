#pragma once

#include <string>
#include <vector>

#include "eagle_schema.h"
#include "numerics.h"

namespace outrider::eagle {

// The table of docs/modes/eagle.md, "What conversion does with each field", as code.

/// Throws kInvalidConfig for values that ModelOpt's class takes, but no conversion can honour.
void refuse_values(const EagleConfig& config);
/// Throws kUnsupported that lists every setting that Outrider refuses, with the reason of each.
void refuse_unsupported(const EagleConfig& config);
/// The same for combinations with the resolved architecture and the numerics.
void refuse_combinations(const EagleConfig& config, const Architecture& architecture,
                         const Numerics& numerics);

/// What the user should know: settings that have no effect here.
std::vector<std::string> notes_on(const EagleConfig& config, const Architecture& architecture,
                                  const Numerics& numerics);

}  // namespace outrider::eagle
