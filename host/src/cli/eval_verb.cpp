#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <map>
#include <memory>

#include "cli/app.h"
#include "cli/decode_options.h"
#include "cli/reference_acceptance_report.h"
#include "generate/measurement.h"
#include "generate/prompt_file.h"
#include "outrider/error.h"

namespace outrider::cli {
namespace {

namespace fs = std::filesystem;

struct EvalArguments {
  DecodeArguments decode;
  std::vector<fs::path> models;
  fs::path prompts;
  size_t most_prompts = 0;
  int64_t reference_steps = 0;
};

constexpr const char* kNoCategory = "";

/// One way to decode: a model folder's drafter.
struct Way {
  std::string folder, drafter;
  Measurement measured;
  double plain_speed;  // of the same folder

  double speed_up() const { return tokens_per_second(measured) / plain_speed; }
};

class Evaluation {
 public:
  explicit Evaluation(const EvalArguments& arguments)
      : arguments_(arguments), plan_(arguments.decode.draft) {
    prompts_ = read_prompt_file(arguments.prompts);
    if (arguments.most_prompts > 0 && arguments.most_prompts < prompts_.size()) {
      prompts_.resize(arguments.most_prompts);
    }
  }

  const std::vector<Json>& prompts() const { return prompts_; }

  // Prompt lookup is the same for every folder of one base.
  void run() {
    for (const auto& folder : arguments_.models) {
      const auto model = load_to_decode(folder, arguments_.decode);
      const auto prompts = tokenized(prompts_, folder);
      auto options = arguments_.decode.decode;
      options.draft = plan_.request();
      options.stop_tokens = stop_tokens(folder);
      const auto plain = measured(*model, DrafterKind::kNone, prompts, options, folder);
      const double speed = tokens_per_second(plain);
      const auto add = [&](const std::string& name, DrafterKind kind) {
        ways_.push_back(
            {folder.string(), name, measured(*model, kind, prompts, options, folder), speed});
      };
      if (!model->speculative_state().empty()) {
        add(model->speculative_state().front().state.mode, DrafterKind::kModel);
      }
      if (ways_.empty() || folder == arguments_.models.front()) {
        add("prompt-lookup", DrafterKind::kPromptLookup);
      }
      ways_.push_back({folder.string(), "none", plain, speed});
    }
  }

  Json json() const {
    Json ways = Json::array();
    for (const auto& way : ways_) ways.push_back(described(way));
    return {{"prompts", prompts_.size()}, {"ways", ways}};
  }

  void print() const {
    Table table({"model", "drafter", "tokens/pass", "95 %", "tokens/s", "speed-up", "drafting"});
    for (const auto& way : ways_) {
      const auto interval = acceptance_interval(way.measured.answers);
      table.add(
          {way.folder, way.drafter, fmt::format("{:.3f}", acceptance_length(way.measured.answers)),
           fmt::format("{:.3f} - {:.3f}", interval.low, interval.high),
           fmt::format("{:.1f}", tokens_per_second(way.measured)),
           fmt::format("{:.2f}", way.speed_up()),
           fmt::format("{:.0f}%", 100 * way.measured.draft_seconds / way.measured.seconds())});
    }
    table.print();
    for (const auto& way : ways_) print_details(way);
    fmt::print("{}\n", verdict());
  }

 private:
  Measurement measured(CausalLM& model, DrafterKind kind, const TokenizedPrompts& prompts,
                       const decode::DecodeOptions& options, const fs::path& folder) const {
    auto said = std::chrono::steady_clock::now();
    const auto say = [&](size_t done) {
      const auto now = std::chrono::steady_clock::now();
      if (done < prompts_.size() && now - said < std::chrono::seconds(10)) return;
      said = now;
      note(fmt::format("{}: {} of {} prompts", folder.string(), done, prompts_.size()));
    };
    return measure(decoder_of(model, kind), prompts.tokens, options, arguments_.decode.batch_size,
                   say);
  }

  std::map<std::string, std::vector<decode::DecodedSequence>> by_category(const Way& way) const {
    std::map<std::string, std::vector<decode::DecodedSequence>> groups;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      groups[prompts_[i].value("category", kNoCategory)].push_back(way.measured.answers[i]);
    }
    return groups;
  }

  Json described(const Way& way) const {
    const auto interval = acceptance_interval(way.measured.answers);
    Json answers = Json::array(), categories = Json::object();
    for (const auto& answer : way.measured.answers) {
      answers.push_back({{"token_ids", answer.tokens},
                         {"rounds", answer.rounds},
                         {"drafted", answer.drafted},
                         {"accepted", answer.accepted}});
    }
    for (const auto& [name, group] : by_category(way)) {
      if (name != kNoCategory) categories[name] = acceptance_length(group);
    }
    return {{"model", way.folder},
            {"drafter", way.drafter},
            {"acceptance_length", acceptance_length(way.measured.answers)},
            {"interval", {interval.low, interval.high}},
            {"acceptance_by_position", acceptance_by_position(way.measured.answers)},
            {"acceptance_length_by_category", categories},
            {"tokens_per_second", tokens_per_second(way.measured)},
            {"speed_up", way.speed_up()},
            {"seconds",
             {{"prompts", way.measured.prompt_seconds},
              {"draft", way.measured.draft_seconds},
              {"base", way.measured.base_seconds}}},
            {"answers", answers}};
  }

  void print_details(const Way& way) const {
    const auto positions = acceptance_by_position(way.measured.answers);
    if (positions.empty()) return;
    fmt::print("\n{}, {}\n", way.folder, way.drafter);
    fmt::print("  accepted at position 1, 2, …: {:.3f}\n", fmt::join(positions, ", "));
    for (const auto& [name, group] : by_category(way)) {
      if (name != kNoCategory)
        fmt::print("  {}: {:.3f} tokens/pass\n", name, acceptance_length(group));
    }
  }

  std::string verdict() const {
    const Way* best = nullptr;
    for (const auto& way : ways_) {
      if (!best || way.speed_up() > best->speed_up()) best = &way;
    }
    if (best->speed_up() <= 1.0) return "\nplain decoding is the fastest here";
    return fmt::format("\nthe fastest here is {} of {}: {:.2f} times plain decoding", best->drafter,
                       best->folder, best->speed_up());
  }

  const EvalArguments& arguments_;
  DraftPlan plan_;
  std::vector<Json> prompts_;
  std::vector<Way> ways_;
};

void evaluate(const EvalArguments& arguments, const GlobalOptions& global) {
  use_plugins(global);
  Evaluation evaluation(arguments);
  if (arguments.reference_steps > 0) {
    const auto result = reference_acceptance(arguments.models, evaluation.prompts(),
                                             arguments.decode, arguments.reference_steps);
    return global.json ? print_json(result) : print_reference_acceptance(result);
  }
  evaluation.run();
  if (global.json) return print_json(evaluation.json());
  evaluation.print();
}

}  // namespace

void add_eval_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<EvalArguments>();
  auto* verb = add_verb(app, "eval", "Decode prompts and measure what drafts are worth",
                        "outrider eval run/best --prompts question.jsonl --max-new-tokens 128");
  verb->add_option("DIR", arguments->models,
                   "Model folders; each is decoded with its draft and plainly, the first also with "
                   "prompt lookup")
      ->required();
  verb->add_option("--prompts", arguments->prompts,
                   "JSON Lines as `generate` reads them; `category` groups them")
      ->type_name("FILE")
      ->required();
  verb->add_option("--num-prompts", arguments->most_prompts, "Only the first so many (0: all)")
      ->capture_default_str();
  verb->add_option("--reference-acceptance", arguments->reference_steps,
                   "Instead: ModelOpt's acceptance-rate validation with so many drafted tokens")
      ->check(CLI::Range(1, 1024));
  add_decode_options(*verb, arguments->decode);
  verb->callback([arguments, &global] { evaluate(*arguments, global); });
}

}  // namespace outrider::cli
