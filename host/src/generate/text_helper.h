#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "machine/python_tool.h"
#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// What a conversation asks.
struct Questions {
  std::vector<Json> turns;  // lists of messages, those before each answer
  Json beside;              // tools and what else the chat template is given
};

/// A model's tokenizer and chat template, in a Python process (python/outrider/text/serve.py).
/// Everything throws kToolMissing where that cannot run.
class OUTRIDER_API TextHelper {
 public:
  /// Throws kInvalidFile for a folder without a usable tokenizer.
  explicit TextHelper(const std::filesystem::path& folder);

  /// The tokens of a prompt: {"text": …}, {"text": …, "raw": true}, {"turns": […]}, {"messages":
  /// […]} and what else conversations are. Throws kInvalidData for others.
  std::vector<int64_t> encode(const Json& prompt);
  /// What a conversation asks whose answers, if it has any, do not matter. Throws kInvalidData.
  Questions questions(const Json& conversation);
  /// The text that further tokens add to a stream, whole characters alone.
  std::string piece(size_t stream, const std::vector<int64_t>& tokens);
  /// Without special tokens.
  std::string text(const std::vector<int64_t>& tokens);

 private:
  PythonTool tool_;
};

}  // namespace outrider
