#include <fmt/format.h>

#include <memory>

#include "cli/coverage_report.h"
#include "cli/data_verbs.h"

namespace outrider::cli {
namespace {

struct CalibrateOptions {
  std::filesystem::path shards, eval_data, out;
  int64_t size = 0, draft_tokens = 7;
};

void calibrate(const CalibrateOptions& options, bool json) {
  const auto shards = TokenShards::open(options.shards);
  const auto vocabulary = DraftVocabulary::most_frequent(shards, options.size);
  const auto coverages =
      measure_coverages(shards, options.eval_data, vocabulary, options.draft_tokens);
  const auto& training = coverages.front().second;
  vocabulary.write(options.out, shards.vocab_size(), training.share());
  const auto unused = options.size - training.distinct_covered;
  if (unused > 0) {
    note(
        fmt::format("note: only {} different tokens are trained on; the {} smallest unused ids "
                    "fill the draft vocabulary",
                    training.distinct_covered, unused));
  }
  if (json) {
    Json result{{"file", options.out.string()},
                {"size", options.size},
                {"vocab_size", shards.vocab_size()},
                {"coverage", training.share()},
                {"unused", unused}};
    for (const auto& [name, coverage] : coverages) result[name] = to_json(coverage, 0);
    return print_json(result);
  }
  fmt::print("{}: {} of {} tokens\n\n", options.out.string(), options.size, shards.vocab_size());
  print_coverages(coverages);
  if (options.eval_data.empty()) {
    note("note: the tokens were chosen on this data; --eval-data shows the figures on other data");
  }
}

}  // namespace

void add_data_calibrate_verb(CLI::App& data, const GlobalOptions& global) {
  auto* verb = add_verb(data, "calibrate",
                        "Choose a draft vocabulary: the tokens that are most often trained on",
                        "outrider data calibrate shards --size 8192 --out d2t.safetensors "
                        "--eval-data held-out");
  auto options = std::make_shared<CalibrateOptions>();
  verb->add_option("shards", options->shards, "Folder of token shards")->required();
  verb->add_option("--size", options->size, "Tokens in the draft vocabulary")
      ->required()
      ->check(CLI::PositiveNumber);
  verb->add_option("--out", options->out, "File to write: d2t, target id = i + d2t[i]")->required();
  verb->add_option("--eval-data", options->eval_data, "Held-out token shards to report on as well");
  verb->add_option("--draft-tokens", options->draft_tokens, "Report bounds up to so many")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  verb->callback([options, &global] { calibrate(*options, global.json); });
}

}  // namespace outrider::cli
