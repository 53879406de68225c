#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/causal_lm.h"
#include "verify/check.h"

namespace outrider::verify {

struct VerifyOptions {
  std::filesystem::path folder;
  /// Token ids of one row; empty: `random_tokens` drawn ones.
  std::vector<int64_t> tokens;
  int64_t random_tokens = 48;
  std::filesystem::path exported;  // a folder of `outrider export`; empty: none
  std::string format;              // of it; empty: the one that it looks like
  /// Reads the model of `folder`.
  std::function<std::shared_ptr<CausalLM>()> load;
};

/// Whether a converted folder is decoded as it was trained: its files against its probe, the base
/// and each draft in both ways of running them, and what the probe recorded of their outputs; and
/// an exported folder, read again, against the folder. All differences are found in one go. Throws
/// what loading throws, unless the files tell why, kNotConverted, and kInvalidArgument for fewer
/// than 8 tokens or unknown ones.
OUTRIDER_API Checks verify_folder(const VerifyOptions& options);

}  // namespace outrider::verify
