#pragma once

#include <string>
#include <vector>

#include "outrider/json.h"

namespace outrider::cli {

/// Where what a tool prints beside its answer goes.
enum class ToolNotes { kShown, kHidden };

/// The result of `python -m module arguments…`, one of the text tools in python/outrider; its
/// errors are thrown. Throws kToolMissing when it cannot run or does not answer.
Json run_python_tool(const std::string& module, const std::vector<std::string>& arguments,
                     ToolNotes notes = ToolNotes::kShown);

}  // namespace outrider::cli
