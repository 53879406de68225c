#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <optional>

#include "cli/app.h"
#include "cli/decode_options.h"
#include "cli/reference_acceptance_report.h"
#include "generate/decoding_evaluation.h"
#include "generate/prompt_file.h"
#include "generate/tokenized_prompts.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/sha256.h"
#include "trainer/progress.h"

namespace outrider::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kSweptPrompts = 8;

struct EvalArguments {
  DecodeArguments decode;
  std::vector<fs::path> models;
  fs::path prompts, out;
  std::optional<size_t> most_prompts;
  int64_t reference_steps = 0;
  bool sweep = false;
  std::vector<int64_t> batch_sizes = {1, 4, 16};
  std::vector<std::string> drafts;
};

// --- measuring -----------------------------------------------------------------------------------

EvaluationPlan plan_of(const EvalArguments& a) {
  if (!a.sweep) return {{a.decode.batch_size}, {a.decode.draft}};
  EvaluationPlan plan{a.batch_sizes, default_drafts(), /*fills_batches=*/true};
  if (!a.drafts.empty()) plan.drafts.clear();
  for (const auto& draft : a.drafts) plan.drafts.push_back(parse_draft(draft, a.decode.draft));
  return plan;
}

/// What decides the results of all ways, but the models.
Json results_options(const EvalArguments& a, const std::vector<Json>& prompts) {
  const auto& decode = a.decode.decode;
  return {{"prompts_sha256", sha256_of(Json(prompts).dump())},
          {"prompts", prompts.size()},
          {"max_new_tokens", decode.max_new_tokens},
          {"temperature", decode.sampling.temperature},
          {"top_k", decode.sampling.top_k},
          {"top_p", decode.sampling.top_p},
          {"seed", decode.seed},
          {"acceptance", decode.rule == decode::AcceptanceRule::kLossless ? "lossless" : "typical"},
          {"sweep", a.sweep},
          {"device", a.decode.model.device},
          {"dtype", a.decode.model.dtype},
          {"base", a.decode.load.base.string()},
          {"reference_numerics", a.decode.load.reference_numerics.value_or("")},
          {"threads", at::get_num_threads()}};
}

/// One line for all models, with the time that is left.
class EvalProgress {
 public:
  explicit EvalProgress(size_t models)
      : models_(static_cast<double>(models)), line_(std::cerr, terminal_width(STDERR_FILENO)) {}

  DecodingEvaluation::OnStep of_model(const fs::path& folder, size_t number) {
    return [this, folder, number](const EvaluationStep& step) {
      const double share = (static_cast<double>(number) + step.share) / models_;
      if (step.was_kept) kept_share_ += share - share_;
      share_ = share;
      show(folder, step);
    };
  }

 private:
  using Clock = std::chrono::steady_clock;

  void show(const fs::path& folder, const EvaluationStep& step) {
    ProgressReport report;
    report.unit = fmt::format("{}, {}: batch", folder.string(), step.way);
    report.step = static_cast<int64_t>(step.batch);
    report.total_steps = static_cast<int64_t>(step.batches);
    report.share = share_;
    const double seconds = std::chrono::duration<double>(Clock::now() - started_).count();
    if (share_ > kept_share_) {
      report.eta_seconds = seconds * (1 - share_) / (share_ - kept_share_);
    }
    const auto now = Clock::now();
    const bool is_due = now - said_ >= std::chrono::seconds(10);
    if (step.batch < step.batches && !is_due) return line_.update(report);
    said_ = now;
    line_.logged(report);
  }

  double models_, share_ = 0, kept_share_ = 0;
  ProgressLine line_;
  Clock::time_point started_ = Clock::now(), said_ = started_;
};

std::vector<Json> prompts_of(const EvalArguments& a) {
  return spread(read_prompt_file(a.prompts), a.most_prompts.value_or(a.sweep ? kSweptPrompts : 0));
}

/// Throws where the folder is none of a model, or has no tokenizer that the prompts need.
EvaluatedModel evaluated_model(const fs::path& folder, const std::vector<Json>& prompts,
                               const DecodeArguments& decode) {
  read_config(folder);
  const auto modes = read_metadata(folder, decode.load.reference_numerics).modes;
  return {folder, modes.empty() ? "" : modes.front().mode, prompt_tokens(prompts, folder),
          [&decode, folder] { return load_to_decode(folder, decode); }};
}

Json evaluated(const EvalArguments& a) {
  const auto plan = plan_of(a);
  for (const auto& draft : plan.drafts) DraftPlan check(draft);
  const auto prompts = prompts_of(a);
  std::vector<EvaluatedModel> models;
  for (const auto& folder : a.models) models.push_back(evaluated_model(folder, prompts, a.decode));
  auto kept = a.out.empty() ? nullptr
                            : std::make_unique<EvaluationFolder>(a.out, results_options(a, prompts),
                                                                 a.models);
  DecodingEvaluation evaluation(prompts, a.decode.decode, plan, std::move(kept));
  EvalProgress progress(a.models.size());
  for (size_t i = 0; i < a.models.size(); ++i) {
    evaluation.add(models[i], progress.of_model(a.models[i], i));
  }
  return evaluation.finish();
}

// --- printing ------------------------------------------------------------------------------------

bool drafts(const Json& way) { return way["drafter"] != "none"; }

std::string drafter_of(const Json& way) {
  auto drafter = way["drafter"].get<std::string>();
  if (!drafts(way)) return drafter;
  return fmt::format("{} {}:{}", drafter, way["draft_shape"].get<std::string>(),
                     way["num_draft_tokens"].get<int64_t>());
}

std::string span(const Json& interval, int decimals) {
  if (!interval.is_array()) return "-";
  return fmt::format("{:.{}f} - {:.{}f}", interval[0].get<double>(), decimals,
                     interval[1].get<double>(), decimals);
}

void print_table(const Json& ways) {
  Table table({"model", "drafter", "batch", "tokens/pass", "95 %", "tokens/s", "speed-up", "95 %",
               "drafting"});
  for (const auto& way : ways) {
    const auto& seconds = way["seconds"];
    const double draft = seconds["draft"].get<double>();
    const double all = draft + seconds["base"].get<double>() + seconds["prompts"].get<double>();
    table.add({way["model"].get<std::string>(), drafter_of(way), way["batch_size"].dump(),
               fmt::format("{:.3f}", way["acceptance_length"].get<double>()),
               span(way["interval"], 3),
               fmt::format("{:.1f}", way["tokens_per_second"].get<double>()),
               fmt::format("{:.2f}", way["speed_up"].get<double>()),
               span(way["speed_up_interval"], 2), fmt::format("{:.0f}%", 100 * draft / all)});
  }
  table.print();
}

void print_details(const Json& way) {
  const auto positions = way["acceptance_by_position"].get<std::vector<double>>();
  if (positions.empty()) return;
  fmt::print("\n{}, {}\n", way["model"].get<std::string>(), drafter_of(way));
  fmt::print("  accepted at position 1, 2, …: {:.3f}\n", fmt::join(positions, ", "));
  for (const auto& [name, length] : way["acceptance_length_by_category"].items()) {
    fmt::print("  {}: {:.3f} tokens/pass\n", name, length.get<double>());
  }
}

/// "1.23 times plain decoding", and whether that may be chance.
std::string speed_up_text(const Json& way) {
  auto text = fmt::format("{:.2f} times plain decoding", way["speed_up"].get<double>());
  const auto& interval = way["speed_up_interval"];
  if (interval.is_array() && interval[0].get<double>() > 1.0) return text;
  return text + (interval.is_array() ? "; 95 %: " + span(interval, 2) : "") +
         "; more prompts would tell whether it is faster";
}

std::string verdict(const Json& fastest) {
  const auto* best = &fastest.front();
  for (const auto& way : fastest) {
    if (way["speed_up"] > (*best)["speed_up"]) best = &way;
  }
  if (!drafts(*best)) return "plain decoding is the fastest here";
  return fmt::format("the fastest here is {} of {}: {}", drafter_of(*best),
                     (*best)["model"].get<std::string>(), speed_up_text(*best));
}

/// The options of `generate` that decode this way.
std::string options_of(const Json& way) {
  auto options =
      way["drafter"] == "prompt-lookup" ? std::string("--drafter prompt-lookup ") : std::string();
  options +=
      fmt::format("--draft-shape {} --num-draft-tokens {}", way["draft_shape"].get<std::string>(),
                  way["num_draft_tokens"].get<int64_t>());
  if (way.contains("draft_depth")) {
    options += fmt::format(" --draft-depth {} --draft-width {}", way["draft_depth"].get<int64_t>(),
                           way["draft_width"].get<int64_t>());
  }
  return options;
}

std::string recommendation(const Json& way) {
  const auto where =
      fmt::format("{}, batch size {}", way["model"].get<std::string>(), way["batch_size"].dump());
  if (!drafts(way)) return where + ": plain decoding is the fastest";
  return fmt::format("{}: {} ({})", where, options_of(way), speed_up_text(way));
}

void print_results(const Json& results, const EvalArguments& a) {
  print_table(results["ways"]);
  if (a.sweep) {
    fmt::print("\n");
    for (const auto& way : results["fastest"]) fmt::print("{}\n", recommendation(way));
  } else {
    for (const auto& way : results["ways"]) print_details(way);
    fmt::print("\n{}\n", verdict(results["fastest"]));
  }
  if (!a.out.empty()) fmt::print("report: {}\n", (a.out / "report.html").string());
}

void measure_as_reference(const EvalArguments& a, const GlobalOptions& global) {
  const auto result = reference_acceptance(a.models, prompts_of(a), a.decode, a.reference_steps);
  global.json ? print_json(result) : print_reference_acceptance(result);
}

void evaluate(const EvalArguments& arguments, const GlobalOptions& global) {
  use_plugins(global);
  if (arguments.reference_steps > 0) return measure_as_reference(arguments, global);
  const auto results = evaluated(arguments);
  global.json ? print_json(results) : print_results(results, arguments);
}

void add_sweep_options(CLI::App& verb, EvalArguments& a) {
  auto* sweep = verb.add_flag("--sweep", a.sweep,
                              "Measure several shapes and numbers of draft tokens at several batch "
                              "sizes, and recommend one for each");
  verb.add_option("--batch-sizes", a.batch_sizes,
                  "Of a sweep; prompts are repeated to fill a batch")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 16))
      ->needs(sweep)
      ->capture_default_str();
  verb.add_option(
          "--sweep-drafts", a.drafts,
          "What a sweep drafts, as SHAPE:TOKENS (default: chains of 1, 2, 3 and 5 tokens, both "
          "trees with 8 and 16)")
      ->delimiter(',')
      ->needs(sweep);
  for (const char* name : {"--batch-size", "--draft-shape", "--num-draft-tokens"}) {
    sweep->excludes(verb.get_option(name));
  }
}

}  // namespace

void add_eval_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<EvalArguments>();
  auto* verb = add_verb(app, "eval", "Decode prompts and measure what drafts are worth",
                        "outrider eval run/best --prompts question.jsonl --max-new-tokens 128\n"
                        "  outrider eval run/best --prompts question.jsonl --sweep --out worth");
  verb->add_option("DIR", arguments->models,
                   "Model folders; each is decoded with its draft and plainly, the first also with "
                   "prompt lookup")
      ->required();
  verb->add_option("--prompts", arguments->prompts,
                   "JSON Lines as `generate` reads them; `category` groups them")
      ->type_name("FILE")
      ->required();
  verb->add_option("--num-prompts", arguments->most_prompts,
                   "Only so many, spread evenly over the file (default: all, of a sweep 8)");
  auto* reference = verb->add_option(
      "--reference-acceptance", arguments->reference_steps,
      "Instead: ModelOpt's acceptance-rate validation with so many drafted tokens");
  reference->check(CLI::Range(1, 1024));
  verb->add_option("--out", arguments->out,
                   "Folder for results and report.html; the same command goes on in it")
      ->type_name("DIR");
  add_decode_options(*verb, arguments->decode);
  add_sweep_options(*verb, *arguments);
  reference->excludes(verb->get_option("--sweep"))->excludes(verb->get_option("--out"));
  verb->callback([arguments, &global] { evaluate(*arguments, global); });
}

}  // namespace outrider::cli
