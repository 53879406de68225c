#include "generate/tokenized_prompts.h"

#include <algorithm>

#include "generate/prompt_file.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

std::vector<std::vector<int64_t>> encoded(const std::vector<Json>& prompts, TextHelper* text) {
  std::vector<std::vector<int64_t>> tokens;
  for (const auto& prompt : prompts) {
    tokens.push_back(has_tokens(prompt) ? tokens_of(prompt, tokens.size() + 1)
                                        : text->encode(prompt));
  }
  return tokens;
}

}  // namespace

std::vector<std::vector<int64_t>> prompt_tokens(const std::vector<Json>& prompts,
                                                const fs::path& folder) {
  if (std::ranges::all_of(prompts, has_tokens)) return encoded(prompts, nullptr);
  TextHelper text(folder);
  return encoded(prompts, &text);
}

TokenizedPrompts tokenized(const std::vector<Json>& prompts, const fs::path& folder) {
  if (std::ranges::all_of(prompts, has_tokens) && !fs::exists(folder / "tokenizer.json")) {
    return {encoded(prompts, nullptr), nullptr};
  }
  const auto text = std::make_shared<TextHelper>(folder);
  return {encoded(prompts, text.get()), text};
}

}  // namespace outrider
