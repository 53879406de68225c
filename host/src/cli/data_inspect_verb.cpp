#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "checkpoint/model_place.h"
#include "cli/conversation_options.h"
#include "cli/data_verbs.h"
#include "machine/python_tool.h"
#include "outrider/error.h"
#include "outrider/host/mask_report.h"
#include "outrider/text.h"

namespace outrider::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostNamed = 10;
constexpr int64_t kBarWidth = 40;
constexpr size_t kLongestLine = 4000;  // characters

struct InspectOptions {
  ConversationOptions conversations;  // its one file may be a folder of token shards
  int64_t show = 3, from = 0;
};

// ---- What is inspected --------------------------------------------------------------------------

bool is_shards(const InspectOptions& options) {
  const auto& inputs = options.conversations.files;
  const bool has_folder =
      std::ranges::any_of(inputs, [](const auto& input) { return fs::is_directory(input); });
  if (has_folder && inputs.size() > 1) {
    throw Error(ErrorCode::kInvalidArgument,
                "data inspect: one folder of token shards at a time, or files of conversations");
  }
  if (!has_folder && options.conversations.model.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("data inspect: {} is no folder of token shards, and conversations need "
                            "--model",
                            in_quotes(inputs.front())),
                "--model DIR names the folder with the tokenizer and its chat template");
  }
  return has_folder;
}

/// The refusal of `data prepare`, for shards that it did not write.
void refuse_whole_masks(const std::string& folder, const std::vector<ConversationShape>& shapes) {
  std::vector<size_t> whole;
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (shapes[i].trained == shapes[i].length) whole.push_back(i);
  }
  if (whole.empty()) return;
  const auto named = std::span(whole).first(std::min(whole.size(), kMostNamed));
  throw Error(
      ErrorCode::kInvalidData,
      fmt::format("{}: every token of {} of {} conversations is trained on, the prompts too: "
                  "conversation {}{} (counted from 0)",
                  printable(folder, 400), whole.size(), shapes.size(), fmt::join(named, ", "),
                  whole.size() > kMostNamed ? ", …" : ""),
      "write the shards again with `outrider data prepare`, which finds the prompts");
}

Json shown_of_shards(const InspectOptions& options) {
  if (options.conversations.model.empty()) return Json::array();
  return run_python_tool(
      "outrider.text.show",
      {"--model", options.conversations.model, "--shards", options.conversations.files.front(),
       "--show", std::to_string(options.show), "--from", std::to_string(options.from)})["shown"];
}

Json inspect_shards(const InspectOptions& options) {
  const auto& folder = options.conversations.files.front();
  const auto shards = TokenShards::open(folder);
  const auto shapes = conversation_shapes(shards);
  refuse_whole_masks(folder, shapes);
  auto report = mask_report(shapes);
  report["noted"] = shards.description().value("noted", Json::object());
  report["shown"] = shown_of_shards(options);
  return report;
}

Json inspect_conversations(const InspectOptions& options) {
  const auto answer = run_python_tool(
      "outrider.text.inspect",
      tool_arguments(options.conversations, {"--show", std::to_string(options.show), "--from",
                                             std::to_string(options.from)}));
  std::vector<ConversationShape> shapes;
  for (const auto& shape : answer.at("shapes")) {
    shapes.push_back(
        {shape.at(0).get<int64_t>(), shape.at(1).get<int64_t>(), shape.at(2).get<int64_t>()});
  }
  auto report = mask_report(shapes);
  report["invalid"] = answer.at("invalid");
  report["noted"] = answer.at("noted");
  report["shown"] = answer.at("shown");
  return report;
}

// ---- The report as text -------------------------------------------------------------------------

std::string percent(const Json& share) { return fmt::format("{:.1f}%", 100 * share.get<double>()); }

void print_figures(const Json& report) {
  fmt::print("{} conversations, {} tokens, {} of them ({}) trained on\n",
             report["conversations"].dump(), report["tokens"].dump(),
             report["trained_tokens"].dump(), percent(report["trained_share"]["all"]));
  const auto without = report["without_trained_token"].get<int64_t>();
  fmt::print("without a trained token: {}{}; with every token trained: {}\n\n", without,
             without > 0 && report.contains("invalid") ? " (data prepare leaves them out)" : "",
             report["with_every_token_trained"].dump());
  Table table({"each conversation", "min", "median", "mean", "p90", "max"});
  const auto& length = report["length"];
  const auto& share = report["trained_share"];
  table.add({"tokens", length["min"].dump(), length["median"].dump(),
             fmt::format("{:.1f}", length["mean"].get<double>()), length["p90"].dump(),
             length["max"].dump()});
  table.add({"share trained on", percent(share["min"]), percent(share["median"]), "", "",
             percent(share["max"])});
  table.print();
}

void print_histogram(const Json& buckets) {
  int64_t most = 1;
  for (const auto& bucket : buckets) most = std::max(most, bucket["count"].get<int64_t>());
  fmt::print("\n");
  Table table({"tokens", "conversations"});
  for (const auto& bucket : buckets) {
    const auto count = bucket["count"].get<int64_t>();
    // A single conversation must be visible.
    const auto width = (count * kBarWidth + most - 1) / most;
    table.add({fmt::format("{}-{}", bucket["from"].dump(), bucket["to"].dump()),
               fmt::format("{:<7} {}", count, std::string(static_cast<size_t>(width), '#'))});
  }
  table.print();
}

/// What surrounds trained text, and what stands for a line break in it.
struct Marks {
  std::string begin, end, line_break;
};

Marks marks_of_output() {
  const char* terminal = std::getenv("TERM");
  const char* plain = std::getenv("NO_COLOR");
  const bool is_colourful = isatty(STDOUT_FILENO) && !(plain && *plain) && terminal &&
                            std::string_view(terminal) != "dumb";
  // Pagers forget a colour at the end of a line.
  if (is_colourful) return {"\033[4;32m", "\033[0m", "\033[0m\n\033[4;32m"};
  return {"⟦", "⟧", "\n"};
}

/// Line breaks stay; whatever else moves a cursor does not.
std::string marked(const Json& segment, const Marks& marks) {
  const auto text = segment["text"].get<std::string>();
  std::vector<std::string> lines;
  for (size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find('\n', begin), text.size());
    lines.push_back(printable(std::string_view(text).substr(begin, end - begin), kLongestLine));
    begin = end + 1;
  }
  if (!segment["trained"].get<bool>()) return join(lines, "\n");
  return marks.begin + join(lines, marks.line_break) + marks.end;
}

void print_shown(const Json& shown) {
  const auto marks = marks_of_output();
  for (const auto& conversation : shown) {
    fmt::print("\n--- {}: {} of {} tokens trained on, marked {}so{} ---\n",
               printable(conversation["where"].get<std::string>(), 400),
               conversation["trained_tokens"].dump(), conversation["tokens"].dump(), marks.begin,
               marks.end);
    std::string text;
    for (const auto& segment : conversation["segments"]) text += marked(segment, marks);
    fmt::print("{}{}", text, text.ends_with('\n') ? "" : "\n");
  }
}

/// Of shards: the notes on conversations were made while they were read.
void print_noted(const Json& noted) {
  std::vector<std::string> counts;
  for (const auto& [name, count] : noted.items()) {
    if (count.is_number()) counts.push_back(fmt::format("{} ({})", printable(name), count.dump()));
  }
  const auto keys = noted.value("unread_keys", Json::object());
  for (const auto& [key, count] : keys.items()) {
    counts.push_back(fmt::format("unread key {} ({})", printable(key), count.dump()));
  }
  if (!counts.empty()) fmt::print("\nnoted: {}\n", fmt::join(counts, ", "));
}

void inspect(const InspectOptions& options, bool json) {
  const auto& model = options.conversations.model;
  if (!model.empty()) require_tokenizer_folder(model);
  const auto report = is_shards(options) ? inspect_shards(options) : inspect_conversations(options);
  if (json) return print_json(report);
  print_figures(report);
  print_histogram(report["histogram"]);
  if (is_shards(options)) print_noted(report["noted"]);
  print_shown(report["shown"]);
}

}  // namespace

void add_data_inspect_verb(CLI::App& data, const GlobalOptions& global) {
  auto* verb = add_verb(data, "inspect",
                        "Lengths and loss masks of token shards, or of conversations not yet "
                        "prepared; and what is trained on, as text",
                        "outrider data inspect chats.jsonl --model SmolLM2 --show 2");
  auto options = std::make_shared<InspectOptions>();
  verb->add_option("input", options->conversations.files,
                   "Folder of token shards, or files of conversations")
      ->required();
  verb->add_option("--model", options->conversations.model,
                   "Folder with the tokenizer (and, for conversations, its chat template)");
  verb->add_option("--show", options->show, "Conversations to show as text, with --model")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  verb->add_option("--from", options->from, "The first of them, counted from 0")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add_conversation_options(*verb, options->conversations);
  verb->callback([options, &global] { inspect(*options, global.json); });
}

}  // namespace outrider::cli
