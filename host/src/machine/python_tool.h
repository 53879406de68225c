#pragma once

#include <string>
#include <vector>

#include "machine/child_process.h"
#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// Where what a tool prints beside its answers goes.
enum class ToolNotes { kShown, kHidden };

/// `python -m module arguments…`, one of the text tools in python/outrider, which answers with
/// lines of JSON.
class OUTRIDER_API PythonTool {
 public:
  /// Throws kToolMissing when it cannot run.
  PythonTool(const std::string& module, const std::vector<std::string>& arguments, ToolNotes notes);

  /// Its next answer; errors in it are thrown. Throws kToolMissing where it ended without one.
  Json answer();
  /// The answer to a line on its stdin.
  Json ask(const Json& question);

 private:
  std::string read_line();

  std::string name_, read_;
  ChildProcess child_;
};

/// The one answer of a tool. An interrupt is the tool's to handle.
OUTRIDER_API Json run_python_tool(const std::string& module,
                                  const std::vector<std::string>& arguments,
                                  ToolNotes notes = ToolNotes::kShown);

}  // namespace outrider
