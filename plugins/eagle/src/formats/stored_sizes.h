#pragma once

#include <string>
#include <vector>

#include "foreign_import.h"

namespace outrider::eagle {

/// Puts the sizes that a draft's tensors have in place of those that its config gives, which often
/// was copied from the base's. Returns what was decided, a sentence each; what the tensors do not
/// decide is a problem.
std::vector<std::string> correct_sizes(DecoderMeaning& meaning, const DraftFiles& files,
                                       const DraftLayout& layout, ConfigProblems& problems);

}  // namespace outrider::eagle
