#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "cli/app.h"
#include "cli/decode_options.h"
#include "generate/measurement.h"
#include "generate/prompt_file.h"
#include "generate/tokenized_prompts.h"
#include "outrider/error.h"

namespace outrider::cli {
namespace {

namespace fs = std::filesystem;

struct GenerateArguments {
  DecodeArguments decode;
  fs::path model, prompts;
  std::string prompt;
  bool raw = false, compare = false;
};

std::vector<Json> given_prompts(const GenerateArguments& arguments) {
  if (arguments.prompt.empty() == arguments.prompts.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "generate: one of --prompt and --prompts is needed");
  }
  if (!arguments.prompts.empty()) return read_prompt_file(arguments.prompts);
  Json prompt = {{"text", arguments.prompt}};
  if (arguments.raw) prompt["raw"] = true;
  return {prompt};
}

Json described(const decode::DecodedSequence& answer, double seconds) {
  auto json = to_json(answer);
  json["acceptance_length"] = answer.acceptance_length();
  json["tokens_per_second"] = static_cast<double>(answer.tokens.size()) / seconds;
  return json;
}

/// Runs batch after batch and shows what comes of them.
class Generation {
 public:
  Generation(const GenerateArguments& arguments, CausalLM& model, bool json)
      : arguments_(arguments),
        prompts_(tokenized(given_prompts(arguments), arguments.model)),
        plan_(arguments.decode.draft),
        json_(json),
        kind_(arguments.decode.drafter_for(model)),
        decoder_(decoder_of(model, kind_)),
        plain_decoder_(decoder_of(model, DrafterKind::kNone)) {}

  void run() {
    const auto step = static_cast<size_t>(arguments_.decode.batch_size);
    const auto& all = prompts_.tokens;
    for (size_t begin = 0; begin < all.size(); begin += step) {
      run_batch(begin, {all.begin() + begin, all.begin() + std::min(begin + step, all.size())});
    }
    if (!json_) note(summary());
  }

 private:
  void run_batch(size_t begin, const MeasuredTokens& prompts) {
    auto options = arguments_.decode.decode;
    options.draft = plan_.request();
    const bool streams = !json_ && prompts.size() == 1;
    if (streams) options.on_tokens = [&](size_t, const auto& tokens) { stream(begin, tokens); };
    const auto size = static_cast<int64_t>(prompts.size());
    const auto batch = measure(decoder_, prompts, options, size);
    append(total_, batch);
    std::optional<double> speed_up;
    if (arguments_.compare) {
      options.on_tokens = {};
      const auto plain = measure(plain_decoder_, prompts, options, size);
      append(plain_total_, plain);
      speed_up = tokens_per_second(batch) / tokens_per_second(plain);
    }
    if (streams) return (void)fmt::print("\n");
    for (const auto& answer : batch.answers) show(answer, batch.seconds().total(), speed_up);
  }

  void stream(size_t number, const std::vector<int64_t>& tokens) {
    fmt::print("{}", prompts_.text ? prompts_.text->piece(number, tokens)
                                   : fmt::format("{} ", fmt::join(tokens, " ")));
    std::fflush(stdout);
  }

  void show(const decode::DecodedSequence& answer, double seconds, std::optional<double> speed_up) {
    if (json_) {
      auto json = described(answer, seconds);
      if (prompts_.text) json["text"] = prompts_.text->text(answer.tokens);
      if (speed_up) json["speed_up"] = *speed_up;
      fmt::print("{}\n", json.dump());
    } else {
      fmt::print("{}\n", prompts_.text ? prompts_.text->text(answer.tokens)
                                       : fmt::format("{}", fmt::join(answer.tokens, " ")));
    }
    std::fflush(stdout);
  }

  std::string summary() const {
    auto text = fmt::format("{} tokens in {:.2f} s, {:.1f} tokens/s", new_tokens(total_),
                            total_.seconds().total(), tokens_per_second(total_));
    if (kind_ != DrafterKind::kNone) {
      text +=
          fmt::format("; {:.2f} tokens per pass of the base", acceptance_length(total_.answers));
    }
    if (arguments_.compare) {
      text += fmt::format("; {:.2f} times as fast as plain decoding",
                          tokens_per_second(total_) / tokens_per_second(plain_total_));
    }
    return text;
  }

  const GenerateArguments& arguments_;
  TokenizedPrompts prompts_;
  DraftPlan plan_;
  bool json_;
  DrafterKind kind_;
  decode::Decoder decoder_, plain_decoder_;
  Measurement total_, plain_total_;
};

void generate(GenerateArguments arguments, const GlobalOptions& global) {
  use_plugins(global);
  const auto model = load_to_decode(arguments.model, arguments.decode);
  arguments.decode.decode.stop_tokens = stop_tokens(arguments.model);
  Generation(arguments, *model, global.json).run();
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
  add_drafter_options(*verb, arguments->decode);
  verb->add_flag("--compare", arguments->compare,
                 "Decode plainly as well and say how much faster drafting is");
  add_decode_options(*verb, arguments->decode);
  verb->callback([arguments, &global] { generate(*arguments, global); });
}

}  // namespace outrider::cli
