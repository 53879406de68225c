#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "outrider/model/causal_lm.h"
#include "verify/check.h"
#include "verify/probe.h"

namespace outrider::verify {

/// What the files of a folder say, without running it, against what they said when it was written:
/// "config", "tokenizer", "tensors". `retrained` gets the modes whose drafts have other values
/// throughout: trained by something that writes no probe, which is no fault.
Checks check_recorded(const std::filesystem::path& folder, const Probe& probe,
                      std::set<std::string>& retrained);

/// "vocabulary map": the base's ids of a draft's vocabulary must be some, and increase.
Checks check_vocabulary_map(const CausalLM& base, const AttachedDraft& attached);

/// "layers read": the base must have the layers that a draft reads.
Checks check_layers_read(const CausalLM& base, const AttachedDraft& attached);

}  // namespace outrider::verify
