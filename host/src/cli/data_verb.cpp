#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>

#include "cli/app.h"
#include "outrider/checkpoint/json_file.h"
#include "outrider/error.h"
#include "outrider/host/token_shards.h"
#include "outrider/text.h"

namespace outrider::cli {
namespace {

namespace fs = std::filesystem;

// ---- The Python text tools: one JSON line on stdout, see python/outrider/tool.py ----------------

constexpr size_t kAnswerLimit = 16u << 20;
constexpr const char* kPythonHint =
    "scripts/setup.sh installs what the text tools need; OUTRIDER_PYTHON names an interpreter";

fs::path program_folder() { return fs::read_symlink("/proc/self/exe").parent_path(); }

std::string interpreter() {
  if (const char* chosen = std::getenv("OUTRIDER_PYTHON"); chosen && *chosen) return chosen;
  const auto beside = program_folder() / "python";
  return fs::exists(beside) ? beside.string() : "python3";
}

/// This process's environment with the text tools in PYTHONPATH.
std::vector<std::string> tool_environment() {
  const std::string name = "PYTHONPATH=";
  auto path = name + (program_folder().parent_path() / "lib/outrider/python").string();
  std::vector<std::string> result;
  for (char** entry = environ; *entry; ++entry) {
    if (std::string_view(*entry).starts_with(name)) {
      path += ":" + std::string(*entry + name.size());
    } else {
      result.emplace_back(*entry);
    }
  }
  result.push_back(path);
  return result;
}

std::vector<char*> null_terminated(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (auto& string : strings) pointers.push_back(string.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// Ctrl-C reaches the whole process group: the child cleans up, this process reports.
class IgnoreInterrupts {
 public:
  IgnoreInterrupts() { previous_ = signal(SIGINT, SIG_IGN); }
  ~IgnoreInterrupts() { signal(SIGINT, previous_); }
  IgnoreInterrupts(const IgnoreInterrupts&) = delete;
  IgnoreInterrupts& operator=(const IgnoreInterrupts&) = delete;

 private:
  sighandler_t previous_;
};

[[noreturn]] void fail_to_start(const std::string& program) {
  throw Error(ErrorCode::kToolMissing,
              fmt::format("cannot run '{}': {}", printable(program), std::strerror(errno)),
              kPythonHint);
}

std::string read_to_end(int descriptor) {
  std::string text;
  char buffer[1 << 14];
  for (;;) {
    const auto count = read(descriptor, buffer, sizeof buffer);
    if (count > 0 && text.size() < kAnswerLimit) text.append(buffer, static_cast<size_t>(count));
    if (count == 0 || (count < 0 && errno != EINTR)) return text;
  }
}

int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

/// Runs a program without a shell; its stdout and wait status.
std::pair<std::string, int> run_program(std::vector<std::string> arguments) {
  auto environment = tool_environment();
  const auto argv = null_terminated(arguments), envp = null_terminated(environment);
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) fail_to_start(arguments.front());
  const IgnoreInterrupts guard;
  const auto child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGINT, SIG_DFL);
    dup2(output[1], STDOUT_FILENO);
    execvpe(argv.front(), argv.data(), envp.data());
    _exit(127);
  }
  close(output[1]);
  auto text = child > 0 ? read_to_end(output[0]) : std::string();
  close(output[0]);
  if (child < 0) fail_to_start(arguments.front());
  return {std::move(text), wait_for(child)};
}

ErrorCode code_of(const Json& error) {
  const auto code = static_cast<ErrorCode>(error.value("code", 0));
  return error_code_name(code) == "Unknown" ? ErrorCode::kInternal : code;
}

std::string describe(int status) {
  return WIFSIGNALED(status) ? fmt::format("was ended by signal {}", WTERMSIG(status))
                             : fmt::format("ended with status {}", WEXITSTATUS(status));
}

/// The result of `python -m module arguments…`; its errors are thrown.
Json run_python_tool(const std::string& module, const std::vector<std::string>& arguments) {
  std::vector<std::string> command{interpreter(), "-m", module};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const auto [text, status] = run_program(command);
  const auto answer = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (answer.is_object() && answer.contains("result")) return answer["result"];
  if (!answer.is_object() || !answer.contains("error")) {
    throw Error(ErrorCode::kToolMissing,
                fmt::format("'{} -m {}' {} without an answer", printable(command.front()), module,
                            describe(status)),
                kPythonHint);
  }
  const auto& error = answer["error"];
  throw Error(code_of(error), error.value("message", ""), error.value("hint", ""));
}

// ---- data prepare -------------------------------------------------------------------------------

struct PrepareOptions {
  std::vector<std::string> files;
  std::string model, out;
  int max_length = 2048, workers = 0;
  bool skip_invalid = false;
};

std::vector<std::string> tool_arguments(const PrepareOptions& options) {
  std::vector<std::string> arguments{"--model",      options.model,
                                     "--out",        options.out,
                                     "--max-length", std::to_string(options.max_length)};
  if (options.workers > 0) {
    arguments.insert(arguments.end(), {"--workers", std::to_string(options.workers)});
  }
  if (options.skip_invalid) arguments.emplace_back("--skip-invalid");
  arguments.emplace_back("--");
  arguments.insert(arguments.end(), options.files.begin(), options.files.end());
  return arguments;
}

void prepare(const PrepareOptions& options, bool json) {
  const auto result = run_python_tool("outrider.prepare", tool_arguments(options));
  if (json) return print_json(result);
  const auto count = [&](const char* key) { return result.at(key).get<int64_t>(); };
  fmt::print("{}: {} conversations, {} tokens, {} of them ({:.1f}%) trained on\n", options.out,
             count("conversations"), count("tokens"), count("trained_tokens"),
             100.0 * count("trained_tokens") / count("tokens"));
  const auto untrained = count("dropped_without_trained_token"), invalid = count("dropped_invalid");
  if (untrained + invalid > 0) {
    fmt::print("left out: {} without a token to train on, {} invalid\n", untrained, invalid);
  }
}

void add_prepare(CLI::App& data, const GlobalOptions& global) {
  auto* verb = add_verb(data, "prepare",
                        "Turn conversations (JSON Lines) into token shards with a loss mask",
                        "outrider data prepare chats.jsonl --model SmolLM2 --out shards");
  auto options = std::make_shared<PrepareOptions>();
  verb->add_option("files", options->files,
                   "Lines with `messages` (role, content) or `conversations` (from, value)")
      ->required();
  verb->add_option("--model", options->model, "Folder with the tokenizer and its chat template")
      ->required();
  verb->add_option("--out", options->out, "Folder to write")->required();
  verb->add_option("--max-length", options->max_length, "Cut conversations at so many tokens")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  verb->add_option("--workers", options->workers, "Processes (default: one per core)")
      ->check(CLI::Range(1, 1024));
  verb->add_flag("--skip-invalid", options->skip_invalid, "Leave invalid lines out");
  verb->callback([options, &global] { prepare(*options, global.json); });
}

// ---- data calibrate -----------------------------------------------------------------------------

struct CalibrateOptions {
  fs::path shards, out;
  int64_t size = 0;
};

struct DraftVocabulary {
  std::vector<int64_t> ids;  // ascending
  int64_t distinct = 0;      // of them, how many are a training target
  double coverage = 0;       // share of the training targets that they make up
};

/// Special tokens that occur, first those that end a turn, must be predictable whatever their rank.
std::vector<bool> special_tokens(const TokenShards& shards) {
  std::vector<bool> special(static_cast<size_t>(shards.vocab_size()));
  for (const auto& id : shards.description().value("special_token_ids", Json::array())) {
    if (!id.is_number_integer() || id < 0 || id >= shards.vocab_size()) {
      throw Error(
          ErrorCode::kInvalidFile,
          fmt::format("shards.json: special_token_ids holds {}, accepted are integers below {}",
                      printable(id.dump(), 40), shards.vocab_size()),
          "write the shards again with `outrider data prepare`");
    }
    special[id.get<size_t>()] = true;
  }
  return special;
}

DraftVocabulary choose_draft_vocabulary(const TokenShards& shards, int64_t size) {
  const auto counts = shards.target_counts();
  const auto special = special_tokens(shards);
  std::vector<int64_t> ids(counts.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto rank = [&](int64_t id) {
    return std::pair(special[id] && counts[id] > 0, counts[id]);
  };
  std::ranges::stable_sort(ids, std::greater<>(), rank);
  ids.resize(static_cast<size_t>(size));
  std::ranges::sort(ids);
  DraftVocabulary vocabulary{ids};
  int64_t covered = 0;
  for (const auto id : ids) {
    covered += counts[id];
    vocabulary.distinct += counts[id] > 0;
  }
  vocabulary.coverage = static_cast<double>(covered) / shards.trained_token_count();
  return vocabulary;
}

void write_draft_vocabulary(const fs::path& path, const DraftVocabulary& vocabulary,
                            int64_t vocab_size) {
  std::vector<int64_t> d2t(vocabulary.ids);
  for (size_t i = 0; i < d2t.size(); ++i) d2t[i] -= static_cast<int64_t>(i);
  const TensorView view{"I64", {static_cast<int64_t>(d2t.size())}, std::as_bytes(std::span(d2t))};
  write_safetensors(path, {{"d2t", view}},
                    {{"kind", "draft_vocabulary"},
                     {"vocab_size", std::to_string(vocab_size)},
                     {"coverage", fmt::format("{:.6f}", vocabulary.coverage)}});
}

void calibrate(const CalibrateOptions& options, bool json) {
  const auto shards = TokenShards::open(options.shards);
  if (options.size > shards.vocab_size()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--size {} is more than the vocabulary's {} tokens", options.size,
                            shards.vocab_size()));
  }
  const auto vocabulary = choose_draft_vocabulary(shards, options.size);
  write_draft_vocabulary(options.out, vocabulary, shards.vocab_size());
  const auto unused = options.size - vocabulary.distinct;
  if (unused > 0) {
    note(
        fmt::format("note: only {} different tokens are trained on; the {} smallest unused ids "
                    "fill the draft vocabulary",
                    vocabulary.distinct, unused));
  }
  if (json) {
    return print_json({{"file", options.out.string()},
                       {"size", options.size},
                       {"vocab_size", shards.vocab_size()},
                       {"coverage", vocabulary.coverage},
                       {"unused", unused}});
  }
  fmt::print("{}: {} of {} tokens, which cover {:.2f}% of {} trained tokens\n",
             options.out.string(), options.size, shards.vocab_size(), 100 * vocabulary.coverage,
             shards.trained_token_count());
}

void add_calibrate(CLI::App& data, const GlobalOptions& global) {
  auto* verb = add_verb(data, "calibrate",
                        "Choose a draft vocabulary: the tokens that are most often trained on",
                        "outrider data calibrate shards --size 8192 --out d2t.safetensors");
  auto options = std::make_shared<CalibrateOptions>();
  verb->add_option("shards", options->shards, "Folder of token shards")->required();
  verb->add_option("--size", options->size, "Tokens in the draft vocabulary")
      ->required()
      ->check(CLI::PositiveNumber);
  verb->add_option("--out", options->out, "File to write: d2t, target id = i + d2t[i]")->required();
  verb->callback([options, &global] { calibrate(*options, global.json); });
}

}  // namespace

void add_data_verb(CLI::App& app, const GlobalOptions& options) {
  auto* data = add_verb(app, "data", "Training data: conversations to token shards",
                        "outrider data prepare chats.jsonl --model SmolLM2 --out shards");
  data->require_subcommand(1);
  add_prepare(*data, options);
  add_calibrate(*data, options);
}

}  // namespace outrider::cli
