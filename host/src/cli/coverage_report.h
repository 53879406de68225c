#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "outrider/host/draft_vocabulary.h"
#include "outrider/json.h"

namespace outrider::cli {

/// Coverages by the data they were measured on: "training", "evaluation".
using NamedCoverages = std::vector<std::pair<std::string, DraftCoverage>>;

/// Measures the training data and, unless its folder is empty, the evaluation data.
NamedCoverages measure_coverages(const TokenShards& data, const std::filesystem::path& eval_data,
                                 const DraftVocabulary& vocabulary, int64_t most_draft_tokens);

/// With the first uncovered tokens, at most so many.
Json to_json(const DraftCoverage& coverage, size_t most_uncovered);

/// Tables of the shares, and of the bounds for each number of draft tokens.
void print_coverages(const NamedCoverages& coverages);

}  // namespace outrider::cli
