#include "cli/conversation_options.h"

namespace outrider::cli {

void add_conversation_options(CLI::App& verb, ConversationOptions& options) {
  verb.add_option("--max-length", options.max_length, "Cut conversations at so many tokens")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  verb.add_option("--workers", options.workers, "Processes (default: one per core)")
      ->check(CLI::Range(1, 1024));
  verb.add_flag("--skip-invalid", options.skip_invalid, "Leave invalid lines out");
}

std::vector<std::string> tool_arguments(const ConversationOptions& options,
                                        const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"--model", options.model, "--max-length",
                                     std::to_string(options.max_length)};
  if (options.workers > 0) {
    arguments.insert(arguments.end(), {"--workers", std::to_string(options.workers)});
  }
  if (options.skip_invalid) arguments.emplace_back("--skip-invalid");
  arguments.insert(arguments.end(), more.begin(), more.end());
  arguments.emplace_back("--");
  arguments.insert(arguments.end(), options.files.begin(), options.files.end());
  return arguments;
}

}  // namespace outrider::cli
