#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <memory>

#include "checkpoint/model_place.h"
#include "cli/data_verbs.h"
#include "cli/decode_options.h"
#include "generate/prompt_file.h"
#include "generate/regeneration.h"
#include "generate/resumable_lines.h"
#include "outrider/error.h"
#include "outrider/host/sha256.h"
#include "trainer/interrupt.h"
#include "trainer/progress.h"

namespace outrider::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBatchSize = 8, kBatchSizeOfGpu = 32;

struct RegenerateArguments {
  DecodeArguments decode;
  fs::path prompts, model, out;
  std::vector<double> temperatures{0.0};
  bool resume = false;
};

std::vector<Questions> questions_of(const fs::path& file, TextHelper& text) {
  const auto prompts = read_prompt_file(file);
  std::vector<Questions> result;
  for (const auto& prompt : prompts) {
    try {
      result.push_back(text.questions(prompt));
    } catch (const Error& error) {
      throw Error(
          error.code(),
          fmt::format("{}, conversation {}: {}", file.string(), result.size() + 1, error.what()),
          error.hint());
    }
  }
  return result;
}

Json draft_identity(const RegenerateArguments& arguments, const CausalLM& model) {
  const auto kind = arguments.decode.drafter_for(model);
  if (kind == DrafterKind::kNone) return "none";
  const auto& draft = arguments.decode.draft;
  return {{"drafter", kind == DrafterKind::kPromptLookup
                          ? "prompt-lookup"
                          : model.speculative_state().front().state.mode},
          {"shape", static_cast<int>(draft.shape)},
          {"tokens", draft.tokens},
          {"depth", draft.depth},
          {"width", draft.width}};
}

/// What decides the bytes of the result.
Json identity_of(const RegenerateArguments& arguments, const CausalLM& model) {
  const auto& decode = arguments.decode.decode;
  Json identity{{"conversations", sha256_of_file(arguments.prompts)},
                {"base", model.weights_sha256()},
                {"draft", draft_identity(arguments, model)},
                {"stop tokens", decode.stop_tokens},
                {"--temperatures", arguments.temperatures},
                {"--top-k", decode.sampling.top_k},
                {"--top-p", decode.sampling.top_p},
                {"--seed", decode.seed},
                {"--max-new-tokens", decode.max_new_tokens},
                {"--batch-size", arguments.decode.batch_size},
                {"--device", std::string(model.device().is_cuda() ? "cuda" : "cpu")},
                {"--dtype", dtype_name(model.dtype())}};
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}) {
    const auto file = arguments.model / name;
    if (fs::exists(file)) identity[name] = sha256_of_file(file);
  }
  return identity;
}

/// Shows how far the work is, and ends it where somebody wants that.
class Watch {
 public:
  explicit Watch(int64_t total) : total_(total) {}

  void now_at(int64_t conversations) { done_ = conversations; }
  void after_tokens(int64_t tokens) {
    progress_.update(done_, total_, tokens);
    if (interrupt_.requested()) throw Error(ErrorCode::kInterrupted, "interrupted");
  }

 private:
  int64_t total_, done_ = 0;
  InterruptScope interrupt_;
  ProgressLine line_{std::cerr, terminal_width(STDERR_FILENO)};
  WorkProgress progress_{line_, "conversation"};
};

/// What the finished lines are.
struct Counts {
  int64_t conversations = 0, answers = 0, cut = 0, empty = 0, too_long = 0;

  /// Whether the line is kept.
  bool add(const Json& line) {
    if (line.contains(kLeftOutKey)) {
      ++(line[kLeftOutKey] == "empty" ? empty : too_long);
      return false;
    }
    ++conversations;
    if (!line["finished"].get<bool>()) ++cut;
    answers += std::count_if(line["messages"].begin(), line["messages"].end(),
                             [](const Json& message) { return message["role"] == "assistant"; });
    return true;
  }
};

class Run {
 public:
  Run(RegenerateArguments arguments, CausalLM& model)
      : arguments_(prepared(std::move(arguments), model)),
        plan_(arguments_.decode.draft),
        text_(arguments_.model),
        questions_(questions_of(arguments_.prompts, text_)),
        regeneration_(decoder_of(model, arguments_.decode.drafter_for(model)), text_,
                      options(model)),
        lines_(arguments_.out, identity_of(arguments_, model), arguments_.resume),
        drafts_(arguments_.decode.drafter_for(model) != DrafterKind::kNone) {}

  void run() {
    const auto group = regeneration_.group_size();
    begin_ = lines_.count() / group * group;
    if (lines_.count() == questions_.size()) begin_ = questions_.size();
    lines_.keep(begin_);
    if (begin_ > 0) note(fmt::format("continuing behind {} conversations", begin_));
    watch_ = std::make_unique<Watch>(static_cast<int64_t>(questions_.size() - begin_));
    for (size_t at = begin_; at < questions_.size(); at = lines_.count()) answer(at, group);
    watch_.reset();
    lines_.finish([this](const Json& line) { return counts_.add(line); });
  }

  Json json() const {
    return {{"file", arguments_.out.string()},
            {"conversations", counts_.conversations},
            {"answers", counts_.answers},
            {"cut", counts_.cut},
            {"left_out", {{"empty", counts_.empty}, {"too_long", counts_.too_long}}},
            {"this_run",
             {{"conversations", questions_.size() - begin_},
              {"tokens", regeneration_.tokens()},
              {"seconds", regeneration_.seconds()},
              {"tokens_per_second", speed()},
              {"acceptance_length", acceptance_length()}}}};
  }

  void print() const {
    fmt::print("{}: {} conversations, {} answers, {} of them cut at {} tokens\n",
               arguments_.out.string(), counts_.conversations, counts_.answers, counts_.cut,
               arguments_.decode.decode.max_new_tokens);
    if (counts_.empty + counts_.too_long > 0) {
      fmt::print("left out: {} whose answer is empty, {} whose question is too long\n",
                 counts_.empty, counts_.too_long);
    }
    auto summary = fmt::format("{} tokens in {:.1f} s, {:.1f} tokens/s", regeneration_.tokens(),
                               regeneration_.seconds(), speed());
    if (drafts_)
      summary += fmt::format("; {:.2f} tokens per pass of the base", acceptance_length());
    note(summary);
  }

 private:
  static RegenerateArguments prepared(RegenerateArguments arguments, const CausalLM& model) {
    auto& decode = arguments.decode.decode;
    decode.stop_tokens = stop_tokens(arguments.model);
    const auto positions = model.config().max_position_embeddings;
    if (decode.max_new_tokens >= positions) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("--max-new-tokens {} leaves no room for a question: the model has {} "
                              "positions",
                              decode.max_new_tokens, positions));
    }
    return arguments;
  }

  RegenerationOptions options(const CausalLM& model) {
    auto decode = arguments_.decode.decode;
    decode.draft = plan_.request();
    return {.decode = decode,
            .temperatures = arguments_.temperatures,
            .batch_size = static_cast<size_t>(arguments_.decode.batch_size),
            .positions = model.config().max_position_embeddings,
            .on_tokens = [this](int64_t tokens) { watch_->after_tokens(tokens); }};
  }

  void answer(size_t at, size_t group) {
    watch_->now_at(static_cast<int64_t>(at - begin_));
    try {
      lines_.append(
          regeneration_.answered(questions_, at, std::min(at + group, questions_.size())));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInterrupted) throw;
      throw Error(ErrorCode::kInterrupted,
                  fmt::format("interrupted after {} of {} conversations", at, questions_.size()),
                  at > 0 ? "continue with the same command and --resume"
                         : "nothing was kept: start the same command again");
    }
  }

  double speed() const {
    return static_cast<double>(regeneration_.tokens()) / std::max(regeneration_.seconds(), 1e-9);
  }
  double acceptance_length() const {
    if (regeneration_.rounds() == 0) return 1.0;
    return static_cast<double>(regeneration_.tokens() - regeneration_.answers()) /
           static_cast<double>(regeneration_.rounds());
  }

  RegenerateArguments arguments_;
  DraftPlan plan_;
  TextHelper text_;
  std::vector<Questions> questions_;
  Regeneration regeneration_;
  ResumableLines lines_;
  bool drafts_;
  size_t begin_ = 0;
  std::unique_ptr<Watch> watch_;
  Counts counts_;
};

void regenerate(const RegenerateArguments& arguments, const GlobalOptions& global) {
  use_plugins(global);
  require_tokenizer_folder(arguments.model);
  const auto model = load_to_decode(arguments.model, arguments.decode);
  Run run(arguments, *model);
  run.run();
  global.json ? print_json(run.json()) : run.print();
}

}  // namespace

void add_data_regenerate_verb(CLI::App& data, const GlobalOptions& global) {
  auto* verb = add_verb(data, "regenerate", "Have a base write the answers that its draft learns",
                        "outrider data regenerate prompts.jsonl --model SmolLM2 "
                        "--temperatures 0,0.7 --out chats.jsonl");
  auto arguments = std::make_shared<RegenerateArguments>();
  arguments->decode.load.hash_weights = true;
  arguments->decode.batch_size = kBatchSize;
  arguments->decode.decode.max_new_tokens = 1024;
  verb->add_option("file", arguments->prompts,
                   "JSON Lines of conversations as `data prepare` reads them, whose answers do not "
                   "matter, of questions alone, or of `turns`")
      ->required();
  verb->add_option("--model", arguments->model,
                   "Base model folder, or a converted one, which drafts for its base")
      ->required();
  verb->add_option("--out", arguments->out, "JSON Lines to write, for `data prepare`")->required();
  verb->add_flag("--resume", arguments->resume, "Continue an interrupted run");
  verb->add_option("--temperatures", arguments->temperatures,
                   "Of the distributions that answers are drawn from, separated by commas; "
                   "conversations have them in turn. 0: the likeliest token")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  add_drafter_options(*verb, arguments->decode);
  add_base_decode_options(*verb, arguments->decode);
  auto* batch_size = verb->get_option("--batch-size");
  batch_size->description(
      fmt::format("{}; on a GPU {} by default", batch_size->get_description(), kBatchSizeOfGpu));
  verb->callback([arguments, batch_size, &global] {
    const bool is_on_gpu = arguments->decode.model.device.starts_with("cuda");
    if (batch_size->empty() && is_on_gpu) arguments->decode.batch_size = kBatchSizeOfGpu;
    regenerate(*arguments, global);
  });
}

}  // namespace outrider::cli
