#pragma once

#include <string>
#include <vector>

#include "report/page.h"

namespace outrider::report {

/// Losses, accuracies and overlaps of each draft step, of the last logged training interval and of
/// the last evaluation.
std::string results_table(const RunHistory& history);

/// What decoding prompts with the drafts gave last.
std::string decoding_table(const RunHistory& history);

/// The tokens of some conversations in stretches that are trained on and that are not.
std::string mask_view(const std::vector<MaskSample>& samples);

/// Every option of the run, and the resolved config of each mode.
std::string configuration(const Json& record);

/// What it takes to tell where the result came from: versions, hashes, commands, machine.
std::string provenance(const Json& record);

}  // namespace outrider::report
