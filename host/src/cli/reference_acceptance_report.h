#pragma once

#include <filesystem>
#include <vector>

#include "cli/decode_options.h"
#include "outrider/json.h"

namespace outrider::cli {

/// Of each folder: ModelOpt's acceptance on these prompts with its first draft, `steps` drafted
/// tokens at a time and answers as long as the options' max_new_tokens: means over all prompts and
/// by `category`. Throws as TextHelper, from_pretrained() and validate() do.
Json reference_acceptance(const std::vector<std::filesystem::path>& folders,
                          const std::vector<Json>& prompts, const DecodeArguments& arguments,
                          int64_t steps);

void print_reference_acceptance(const Json& result);

}  // namespace outrider::cli
