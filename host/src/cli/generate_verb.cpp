#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>

#include "cli/app.h"
#include "cli/model_options.h"
#include "generate/prompt_file.h"
#include "generate/session.h"
#include "generate/text_helper.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"

namespace outrider::cli {
namespace {

namespace fs = std::filesystem;
using Tokens = std::vector<int64_t>;

const std::map<std::string, DraftShape> kShapes{{"chain", DraftShape::kChain},
                                                {"static-tree", DraftShape::kStaticTree},
                                                {"dynamic-tree", DraftShape::kDynamicTree}};
const std::map<std::string, DrafterKind> kDrafters{{"model", DrafterKind::kModel},
                                                   {"prompt-lookup", DrafterKind::kPromptLookup}};
const std::map<std::string, decode::AcceptanceRule> kRules{
    {"lossless", decode::AcceptanceRule::kLossless}, {"typical", decode::AcceptanceRule::kTypical}};

struct GenerateArguments {
  LoadOptions load;
  ModelOptions options;
  fs::path model, prompts;
  std::string prompt;
  bool raw = false, no_draft = false, compare = false;
  std::optional<DrafterKind> drafter;
  DraftSettings draft;
  int64_t batch_size = 1;
  decode::DecodeOptions decode;
};

/// What a run is given and answers with.
class Prompts {
 public:
  explicit Prompts(const GenerateArguments& arguments) {
    std::vector<Json> given{{{"text", arguments.prompt}}};
    if (arguments.raw) given.front()["raw"] = true;
    if (!arguments.prompts.empty()) given = read_prompt_file(arguments.prompts);
    const bool all_tokens = std::all_of(given.begin(), given.end(), has_tokens);
    if (!all_tokens || fs::exists(arguments.model / "tokenizer.json")) {
      text_ = std::make_unique<TextHelper>(arguments.model);
    }
    for (const auto& prompt : given) {
      tokens_.push_back(has_tokens(prompt) ? tokens_of(prompt, tokens_.size() + 1)
                                           : text_->encode(prompt));
    }
  }

  size_t size() const { return tokens_.size(); }
  std::vector<Tokens> slice(size_t begin, size_t count) const {
    const auto first = tokens_.begin() + static_cast<std::ptrdiff_t>(begin);
    return {first, first + static_cast<std::ptrdiff_t>(std::min(count, size() - begin))};
  }
  TextHelper* text() const { return text_.get(); }

 private:
  std::unique_ptr<TextHelper> text_;  // null: prompts are tokens, and the folder has no tokenizer
  std::vector<Tokens> tokens_;
};

DrafterKind drafter_kind(const GenerateArguments& arguments, const CausalLM& model) {
  if (arguments.no_draft) return DrafterKind::kNone;
  const bool has_draft = !model.speculative_state().empty();
  return arguments.drafter.value_or(has_draft ? DrafterKind::kModel : DrafterKind::kNone);
}

double seconds_of(const decode::DecodedBatch& batch) {
  return batch.prompt_seconds + batch.draft_seconds + batch.base_seconds;
}

size_t tokens_in(const decode::DecodedBatch& batch) {
  size_t count = 0;
  for (const auto& sequence : batch.sequences) count += sequence.tokens.size();
  return count;
}

double speed_of(const decode::DecodedBatch& batch) {
  return static_cast<double>(tokens_in(batch)) / seconds_of(batch);
}

Json described(const decode::DecodedSequence& sequence, double seconds) {
  return {{"token_ids", sequence.tokens},
          {"acceptance_length", sequence.acceptance_length()},
          {"tokens_per_second", static_cast<double>(sequence.tokens.size()) / seconds},
          {"rounds", sequence.rounds},
          {"drafted", sequence.drafted},
          {"accepted", sequence.accepted},
          {"stopped", sequence.stopped}};
}

/// Runs batch after batch and shows what comes of them.
class Run {
 public:
  Run(const GenerateArguments& arguments, CausalLM& model, bool json)
      : arguments_(arguments),
        prompts_(arguments),
        plan_(arguments.draft),
        json_(json),
        kind_(drafter_kind(arguments, model)),
        decoder_(decoder_of(model, kind_)),
        plain_(decoder_of(model, DrafterKind::kNone)) {}

  void all() {
    const auto step = static_cast<size_t>(arguments_.batch_size);
    for (size_t begin = 0; begin < prompts_.size(); begin += step) batch(begin);
    if (!json_) note(summary());
  }

 private:
  void batch(size_t begin) {
    const auto prompts = prompts_.slice(begin, static_cast<size_t>(arguments_.batch_size));
    auto options = arguments_.decode;
    options.draft = plan_.request();
    const bool streams = !json_ && prompts.size() == 1;
    if (streams) {
      options.on_tokens = [&](size_t, const Tokens& tokens) { stream(begin, tokens); };
    }
    const auto result = decoder_.run(prompts, options);
    std::optional<double> speed_up;
    if (arguments_.compare) {
      options.on_tokens = {};
      const auto plain = plain_.run(prompts, options);
      plain_seconds_ += static_cast<double>(tokens_in(result)) / speed_of(plain);
      speed_up = speed_of(result) / speed_of(plain);
    }
    add(result);
    for (const auto& sequence : result.sequences) {
      show(sequence, seconds_of(result), speed_up, streams);
    }
  }

  void stream(size_t number, const Tokens& tokens) {
    if (prompts_.text()) {
      fmt::print("{}", prompts_.text()->piece(number, tokens));
    } else {
      for (const int64_t token : tokens) fmt::print("{} ", token);
    }
    std::fflush(stdout);
  }

  void show(const decode::DecodedSequence& sequence, double seconds, std::optional<double> speed_up,
            bool streamed) {
    if (json_) {
      auto json = described(sequence, seconds);
      if (prompts_.text()) json["text"] = prompts_.text()->text(sequence.tokens);
      if (speed_up) json["speed_up"] = *speed_up;
      fmt::print("{}\n", json.dump());
    } else if (streamed) {
      fmt::print("\n");
    } else {
      fmt::print("{}\n", prompts_.text() ? prompts_.text()->text(sequence.tokens)
                                         : fmt::format("{}", fmt::join(sequence.tokens, " ")));
    }
    std::fflush(stdout);
  }

  void add(const decode::DecodedBatch& result) {
    seconds_ += seconds_of(result);
    tokens_ += tokens_in(result);
    for (const auto& sequence : result.sequences) {
      rounds_ += sequence.rounds;
      if (sequence.rounds > 0) emitted_ += sequence.tokens.size() - 1;
    }
  }

  std::string summary() const {
    auto text = fmt::format("{} tokens in {:.2f} s, {:.1f} tokens/s", tokens_, seconds_,
                            static_cast<double>(tokens_) / seconds_);
    if (kind_ != DrafterKind::kNone && rounds_ > 0) {
      text += fmt::format("; {:.2f} tokens per pass of the base",
                          static_cast<double>(emitted_) / static_cast<double>(rounds_));
    }
    if (arguments_.compare) {
      text += fmt::format("; {:.2f} times as fast as plain decoding", plain_seconds_ / seconds_);
    }
    return text;
  }

  const GenerateArguments& arguments_;
  Prompts prompts_;
  DraftPlan plan_;
  bool json_;
  DrafterKind kind_;
  decode::Decoder decoder_, plain_;
  double seconds_ = 0.0, plain_seconds_ = 0.0;  // the latter for as many tokens
  size_t tokens_ = 0, emitted_ = 0;
  int64_t rounds_ = 0;
};

// What a CPU computes in float32 is read as it is stored: decoding is limited by reading weights.
std::shared_ptr<CausalLM> load_to_decode(const fs::path& folder, LoadOptions load) {
  const bool computes_single = load.dtype.value_or(at::kFloat) == at::kFloat;
  load.widen_at_use =
      load.device.is_cpu() && computes_single && read_config(folder).dtype == at::kBFloat16;
  auto model = load_to_run(folder, load);
  if (load.widen_at_use && model->dtype() == at::kFloat) hold_drafts_in(*model, at::kBFloat16);
  model->eval();
  return model;
}

void generate(GenerateArguments arguments, const GlobalOptions& global) {
  use_plugins(global);
  if (arguments.prompt.empty() == arguments.prompts.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "generate: one of --prompt and --prompts is needed");
  }
  const auto model =
      load_to_decode(arguments.model, with_options(arguments.load, arguments.options));
  arguments.decode.stop_tokens = stop_tokens(arguments.model);
  Run(arguments, *model, global.json).all();
}

template <class Value, class Target>
void add_choice(CLI::App& verb, const char* name, const std::map<std::string, Value>& values,
                Target& target, const std::string& description) {
  std::vector<std::string> names;
  for (const auto& [known, value] : values) names.push_back(known);
  verb.add_option_function<std::string>(
          name, [&](const std::string& chosen) { target = values.at(chosen); }, description)
      ->check(CLI::IsMember(names))
      ->type_name("NAME");
}

void add_draft_options(CLI::App& verb, GenerateArguments& arguments) {
  add_choice(verb, "--draft-shape", kShapes, arguments.draft.shape,
             "chain (the default), static-tree (of a fixed form), or dynamic-tree (the likeliest "
             "tokens)");
  verb.add_option("--num-draft-tokens", arguments.draft.tokens,
                  "Tokens drafted for one pass of the base (default: 3 of a chain, 16 of a tree)");
  verb.add_option("--draft-depth", arguments.draft.depth, "Levels of a tree")
      ->capture_default_str();
  verb.add_option("--draft-width", arguments.draft.width,
                  "Children of a node, and nodes that have some in a level of a dynamic tree")
      ->capture_default_str();
  verb.add_flag("--no-draft", arguments.no_draft, "Plain decoding");
  add_choice(verb, "--drafter", kDrafters, arguments.drafter,
             "model (its draft; the default where it has one) or prompt-lookup");
  add_choice(verb, "--acceptance", kRules, arguments.decode.rule,
             "lossless (the default), or typical, which changes the distribution");
  verb.add_flag("--compare", arguments.compare,
                "Decode plainly as well and say how much faster drafting is");
}

void add_sampling_options(CLI::App& verb, decode::DecodeOptions& options) {
  verb.add_option("--max-new-tokens", options.max_new_tokens, "At most so many tokens a prompt")
      ->capture_default_str();
  verb.add_option("--temperature", options.sampling.temperature,
                  "Of the distribution that tokens are drawn from; 0: the likeliest token")
      ->capture_default_str();
  verb.add_option("--top-k", options.sampling.top_k, "Draw from the k likeliest tokens (0: all)")
      ->capture_default_str();
  verb.add_option("--top-p", options.sampling.top_p,
                  "Draw from the likeliest tokens that are together so probable")
      ->capture_default_str();
  verb.add_option("--seed", options.seed, "Of the random numbers")->capture_default_str();
}

}  // namespace

void add_generate_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<GenerateArguments>();
  auto* verb = add_verb(app, "generate", "Continue prompts, faster where the model has a draft",
                        "outrider generate DIR --prompt \"Why is the sky blue?\" "
                        "--max-new-tokens 100 --temperature 0.7");
  verb->add_option("DIR", arguments->model, "Model folder, converted or not")->required();
  verb->add_option("--prompt", arguments->prompt, "What the user says");
  verb->add_option("--prompts", arguments->prompts,
                   "JSON Lines: `messages`, `turns` (the first counts), or tokens as `input_ids`")
      ->type_name("FILE");
  verb->add_flag("--raw", arguments->raw, "--prompt as it is, without the chat template");
  add_sampling_options(*verb, arguments->decode);
  add_draft_options(*verb, *arguments);
  verb->add_option("--batch-size", arguments->batch_size, "Prompts that are decoded together")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  add_model_options(*verb, arguments->options);
  add_base_option(*verb, arguments->load.base);
  add_numerics_option(*verb, arguments->load.reference_numerics);
  verb->callback([arguments, &global] { generate(*arguments, global); });
}

}  // namespace outrider::cli
