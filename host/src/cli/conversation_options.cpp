#include "cli/conversation_options.h"

namespace outrider::cli {
namespace {

void add_rendering_options(CLI::App& verb, ConversationOptions& options) {
  verb.add_option("--turns", options.turns,
                  "Answers to train on: all, last, or each (one sample for every answer, rendered "
                  "as when it was asked for)")
      ->check(CLI::IsMember({"all", "last", "each"}))
      ->capture_default_str();
  verb.add_option("--reasoning", options.reasoning,
                  "keep (an answer that loses its reasoning is refused) or drop")
      ->check(CLI::IsMember({"keep", "drop"}))
      ->capture_default_str();
  verb.add_option("--chat-template", options.chat_template,
                  "Jinja file to use instead of the model's chat template");
  verb.add_option("--template-arg", options.template_arguments,
                  "NAME=VALUE, a variable of the chat template; JSON, or else text (repeatable)")
      ->allow_extra_args(false);
}

void append_rendering(std::vector<std::string>& arguments, const ConversationOptions& options) {
  arguments.insert(arguments.end(), {"--turns", options.turns, "--reasoning", options.reasoning});
  if (!options.chat_template.empty()) {
    arguments.insert(arguments.end(), {"--chat-template", options.chat_template});
  }
  for (const auto& argument : options.template_arguments) {
    arguments.push_back("--template-arg=" + argument);
  }
}

}  // namespace

void add_conversation_options(CLI::App& verb, ConversationOptions& options) {
  verb.add_option("--max-length", options.max_length, "Cut conversations at so many tokens")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  verb.add_option("--workers", options.workers, "Processes (default: one per core)")
      ->check(CLI::Range(1, 1024));
  verb.add_flag("--skip-invalid", options.skip_invalid,
                "Leave invalid conversations out, if they are not most of a file");
  add_rendering_options(verb, options);
}

std::vector<std::string> tool_arguments(const ConversationOptions& options,
                                        const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"--model", options.model, "--max-length",
                                     std::to_string(options.max_length)};
  if (options.workers > 0) {
    arguments.insert(arguments.end(), {"--workers", std::to_string(options.workers)});
  }
  if (options.skip_invalid) arguments.emplace_back("--skip-invalid");
  append_rendering(arguments, options);
  arguments.insert(arguments.end(), more.begin(), more.end());
  arguments.emplace_back("--");
  arguments.insert(arguments.end(), options.files.begin(), options.files.end());
  return arguments;
}

}  // namespace outrider::cli
