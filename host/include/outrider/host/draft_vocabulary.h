#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "outrider/api.h"
#include "outrider/host/token_shards.h"

namespace outrider {

/// The tokens of the base that a draft can propose. On disk: a safetensors file with `d2t` [size]
/// int64, where draft token i is the base's token i + d2t[i].
struct OUTRIDER_API DraftVocabulary {
  std::vector<int64_t> ids;  // of the base, ascending

  /// Throws kFileNotFound, or kInvalidFile for a file without such a `d2t`.
  static DraftVocabulary read(const std::filesystem::path& path);
  /// `coverage` and the base's vocabulary size go into the metadata.
  void write(const std::filesystem::path& path, int64_t vocab_size, double coverage) const;

  /// The `size` tokens that are most often trained on; special tokens that occur always, whatever
  /// their rank. Throws kInvalidArgument when `size` is more than the shards' vocabulary.
  static DraftVocabulary most_frequent(const TokenShards& shards, int64_t size);
};

/// What a draft with a smaller vocabulary can at most achieve on data.
struct DraftCoverage {
  struct Token {
    int64_t id, count;
  };
  /// Tokens that one pass of the base can yield at most when every proposed token that is in the
  /// draft vocabulary is right, the base's own token included.
  struct Bound {
    int64_t draft_tokens;  // proposed in each pass
    double decoding;       // all answers decoded from their begin: tokens / passes
    double per_position;   // mean over every trained position as the begin of a pass
  };
  int64_t targets = 0, covered = 0;                    // trained tokens
  int64_t distinct_targets = 0, distinct_covered = 0;  // different ones among them
  std::vector<Token> uncovered;                        // most frequent first, then by id
  std::vector<Bound> bounds;                           // for 1, 2, … draft tokens

  double share() const { return static_cast<double>(covered) / static_cast<double>(targets); }
};

/// Throws kInvalidArgument when the vocabulary holds ids beyond the shards'.
OUTRIDER_API DraftCoverage measure_coverage(const TokenShards& shards,
                                            const DraftVocabulary& vocabulary,
                                            int64_t most_draft_tokens);

}  // namespace outrider
