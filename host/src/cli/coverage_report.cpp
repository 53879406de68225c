#include "cli/coverage_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/common.h"

namespace outrider::cli {
namespace {

std::string percent(double share) { return fmt::format("{:.2f}%", 100 * share); }

void print_shares(const NamedCoverages& coverages) {
  Table table({"data", "trained tokens", "covered", "different tokens", "covered"});
  for (const auto& [name, coverage] : coverages) {
    table.add({name, std::to_string(coverage.targets), percent(coverage.share()),
               std::to_string(coverage.distinct_targets),
               percent(static_cast<double>(coverage.distinct_covered) /
                       static_cast<double>(coverage.distinct_targets))});
  }
  table.print();
}

void print_bounds(const NamedCoverages& coverages) {
  fmt::print("\nat most so many tokens per base pass, if the draft is otherwise perfect:\n");
  std::vector<std::string> headings{"draft tokens"};
  for (const auto& [name, _] : coverages) {
    headings.insert(headings.end(), {name + ": decoding", "per position"});
  }
  Table table(headings);
  for (size_t k = 0; k < coverages.front().second.bounds.size(); ++k) {
    std::vector<std::string> row{std::to_string(k + 1)};
    for (const auto& [_, coverage] : coverages) {
      const auto& bound = coverage.bounds[k];
      row.insert(row.end(), {fmt::format("{:.3f}", bound.decoding),
                             fmt::format("{:.3f}", bound.per_position)});
    }
    table.add(row);
  }
  table.print();
}

}  // namespace

NamedCoverages measure_coverages(const TokenShards& data, const std::filesystem::path& eval_data,
                                 const DraftVocabulary& vocabulary, int64_t most_draft_tokens) {
  NamedCoverages coverages;
  coverages.emplace_back("training", measure_coverage(data, vocabulary, most_draft_tokens));
  if (!eval_data.empty()) {
    coverages.emplace_back("evaluation", measure_coverage(TokenShards::open(eval_data), vocabulary,
                                                          most_draft_tokens));
  }
  return coverages;
}

Json to_json(const DraftCoverage& coverage, size_t most_uncovered) {
  Json bounds = Json::array(), uncovered = Json::array();
  for (const auto& bound : coverage.bounds) {
    bounds.push_back({{"draft_tokens", bound.draft_tokens},
                      {"decoding", bound.decoding},
                      {"per_position", bound.per_position}});
  }
  for (size_t i = 0; i < std::min(most_uncovered, coverage.uncovered.size()); ++i) {
    uncovered.push_back({{"id", coverage.uncovered[i].id}, {"count", coverage.uncovered[i].count}});
  }
  return {{"trained_tokens", coverage.targets},
          {"covered_tokens", coverage.covered},
          {"coverage", coverage.share()},
          {"different_tokens", coverage.distinct_targets},
          {"different_covered_tokens", coverage.distinct_covered},
          {"bounds", bounds},
          {"uncovered", uncovered}};
}

void print_coverages(const NamedCoverages& coverages) {
  print_shares(coverages);
  print_bounds(coverages);
}

}  // namespace outrider::cli
