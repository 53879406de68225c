#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <set>

#include "checkpoint/model_place.h"
#include "cli/coverage_report.h"
#include "cli/data_verbs.h"
#include "machine/python_tool.h"
#include "outrider/text.h"

namespace outrider::cli {
namespace {

struct CoverageOptions {
  std::filesystem::path vocabulary, data, eval_data;
  std::string model;
  int64_t draft_tokens = 7;
  size_t show = 10;
};

/// The texts of the uncovered tokens that are reported, by id; null without a tokenizer.
Json token_texts(const Json& result, const std::string& model) {
  std::set<int64_t> ids;
  for (const auto& [name, coverage] : result.items()) {
    for (const auto& token : coverage["uncovered"]) ids.insert(token["id"].get<int64_t>());
  }
  if (model.empty() || ids.empty()) return nullptr;
  return run_python_tool("outrider.text.show", {"--model", model, "--tokens",
                                                fmt::format("{}", fmt::join(ids, ","))})["tokens"];
}

void add_texts(Json& result, const Json& texts) {
  if (texts.is_null()) return;
  for (auto& coverage : result) {
    for (auto& token : coverage["uncovered"]) {
      token["text"] = texts.at(std::to_string(token["id"].get<int64_t>()));
    }
  }
}

void print_uncovered(const std::string& name, const Json& coverage) {
  const auto& tokens = coverage["uncovered"];
  if (tokens.empty()) return;
  fmt::print("\nmost frequent uncovered tokens, {}:\n", name);
  const bool has_texts = tokens.front().contains("text");
  Table table(has_texts ? std::vector<std::string>{"id", "count", "text"}
                        : std::vector<std::string>{"id", "count"});
  for (const auto& token : tokens) {
    std::vector<std::string> row{token["id"].dump(), token["count"].dump()};
    if (has_texts) row.push_back(in_quotes(token["text"].get<std::string>(), 60));
    table.add(row);
  }
  table.print();
}

void report_coverage(const CoverageOptions& options, bool json) {
  if (!options.model.empty()) require_tokenizer_folder(options.model);
  const auto vocabulary = DraftVocabulary::read(options.vocabulary);
  const auto coverages = measure_coverages(TokenShards::open(options.data), options.eval_data,
                                           vocabulary, options.draft_tokens);
  Json result = Json::object();
  for (const auto& [name, coverage] : coverages) result[name] = to_json(coverage, options.show);
  add_texts(result, token_texts(result, options.model));
  if (json) return print_json(result);
  print_coverages(coverages);
  for (const auto& [name, _] : coverages) print_uncovered(name, result[name]);
}

}  // namespace

void add_data_coverage_verb(CLI::App& data, const GlobalOptions& global) {
  auto* verb =
      add_verb(data, "coverage", "What a draft vocabulary covers, and how much decoding it allows",
               "outrider data coverage d2t.safetensors --data shards --eval-data held-out");
  auto options = std::make_shared<CoverageOptions>();
  verb->add_option("vocabulary", options->vocabulary, "Made by `outrider data calibrate`")
      ->required();
  verb->add_option("--data", options->data, "Token shards to train on")->required();
  verb->add_option("--eval-data", options->eval_data, "Held-out token shards");
  verb->add_option("--model", options->model, "Folder with the tokenizer: show tokens as text");
  verb->add_option("--draft-tokens", options->draft_tokens, "Report bounds up to so many")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  verb->add_option("--show", options->show, "Uncovered tokens to list")->capture_default_str();
  verb->callback([options, &global] { report_coverage(*options, global.json); });
}

}  // namespace outrider::cli
