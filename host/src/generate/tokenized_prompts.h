#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "generate/text_helper.h"
#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// Prompts of read_prompt_file() as tokens, with the tokenizer of this model folder where one is
/// not given as such. Throws as TextHelper and tokens_of() do.
OUTRIDER_API std::vector<std::vector<int64_t>> prompt_tokens(const std::vector<Json>& prompts,
                                                             const std::filesystem::path& folder);

/// Prompts as tokens, and what makes text of answers: undefined where all prompts are given as
/// tokens and the folder has no tokenizer.
struct TokenizedPrompts {
  std::vector<std::vector<int64_t>> tokens;
  std::shared_ptr<TextHelper> text;
};

/// Throws as prompt_tokens().
OUTRIDER_API TokenizedPrompts tokenized(const std::vector<Json>& prompts,
                                        const std::filesystem::path& folder);

}  // namespace outrider
