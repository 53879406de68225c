#pragma once

#include <string>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider::report {

/// One static HTML page, as page() of a run, about an evaluation: `results` as `outrider eval
/// --json` has them, with "finished"; `settings`: {"options", "models", "written_by"}.
OUTRIDER_API std::string evaluation_page(const Json& results, const Json& settings);

}  // namespace outrider::report
