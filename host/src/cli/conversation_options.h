#pragma once

#include <string>
#include <vector>

#include "cli/common.h"

namespace outrider::cli {

/// How the verbs that read conversations read them.
struct ConversationOptions {
  std::vector<std::string> files;
  std::string model;
  int max_length = 2048, workers = 0;
  bool skip_invalid = false;
  std::string turns = "all", reasoning = "keep", chat_template;
  std::vector<std::string> template_arguments;  // NAME=VALUE
};

/// All but `files` and `model`.
void add_conversation_options(CLI::App& verb, ConversationOptions& options);

/// For the Python tool; the files come last.
std::vector<std::string> tool_arguments(const ConversationOptions& options,
                                        const std::vector<std::string>& more);

}  // namespace outrider::cli
