#include <fmt/format.h>

#include <memory>

#include "checkpoint/model_place.h"
#include "cli/conversation_options.h"
#include "cli/data_verbs.h"
#include "machine/python_tool.h"

namespace outrider::cli {
namespace {

struct PrepareOptions {
  ConversationOptions conversations;
  std::string out;
  int64_t shard_tokens = 1 << 21;
  bool resume = false;
};

void prepare(const PrepareOptions& options, bool json) {
  require_tokenizer_folder(options.conversations.model);
  std::vector<std::string> more{"--out", options.out, "--shard-tokens",
                                std::to_string(options.shard_tokens)};
  if (options.resume) more.emplace_back("--resume");
  const auto result =
      run_python_tool("outrider.text.prepare", tool_arguments(options.conversations, more));
  if (json) return print_json(result);
  const auto count = [&](const char* key) { return result.at(key).get<int64_t>(); };
  fmt::print(
      "{}: {} conversations, {} tokens, {} of them ({:.1f}%) trained on\n", options.out,
      count("conversations"), count("tokens"), count("trained_tokens"),
      100.0 * static_cast<double>(count("trained_tokens")) / static_cast<double>(count("tokens")));
  const auto untrained = count("dropped_without_trained_token"), invalid = count("dropped_invalid");
  if (untrained + invalid > 0) {
    fmt::print("left out: {} without a token to train on, {} invalid\n", untrained, invalid);
  }
}

}  // namespace

void add_data_prepare_verb(CLI::App& data, const GlobalOptions& global) {
  auto* verb = add_verb(data, "prepare", "Turn conversations into token shards with a loss mask",
                        "outrider data prepare chats.jsonl --model SmolLM2 --out shards");
  auto options = std::make_shared<PrepareOptions>();
  verb->add_option("files", options->conversations.files,
                   "JSON Lines or a JSON array (also .gz), or Parquet: `messages` (role, content), "
                   "`conversations` (from, value), or questions with their answers")
      ->required();
  verb->add_option("--model", options->conversations.model,
                   "Folder with the tokenizer and its chat template")
      ->required();
  verb->add_option("--out", options->out, "Folder to write")->required();
  verb->add_flag("--resume", options->resume, "Continue an interrupted run behind its last shard");
  add_conversation_options(*verb, options->conversations);
  verb->add_option("--shard-tokens", options->shard_tokens, "Tokens of one file, about")
      ->check(CLI::Range(1, 1 << 28))
      ->capture_default_str();
  verb->callback([options, &global] { prepare(*options, global.json); });
}

}  // namespace outrider::cli
