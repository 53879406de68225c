#include "outrider/host/draft_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

/// Special tokens that occur, first those that end a turn, must be predictable whatever their rank.
std::vector<bool> special_tokens(const TokenShards& shards) {
  std::vector<bool> special(static_cast<size_t>(shards.vocab_size()));
  for (const auto& id : shards.description().value("special_token_ids", Json::array())) {
    if (!id.is_number_integer() || id < 0 || id >= shards.vocab_size()) {
      throw Error(
          ErrorCode::kInvalidFile,
          fmt::format("shards.json: special_token_ids holds {}, accepted are integers below {}",
                      printable(id.dump(), 40), shards.vocab_size()),
          "write the shards again with `outrider data prepare`");
    }
    special[id.get<size_t>()] = true;
  }
  return special;
}

[[noreturn]] void refuse_vocabulary(const fs::path& path, const std::string& what) {
  throw Error(ErrorCode::kInvalidFile, fmt::format("{}: {}", printable(path.string(), 400), what),
              "make the file with `outrider data calibrate SHARDS --size N --out FILE`");
}

std::vector<bool> membership(const DraftVocabulary& vocabulary, int64_t vocab_size) {
  std::vector<bool> member(static_cast<size_t>(vocab_size));
  for (const auto id : vocabulary.ids) {
    if (id >= vocab_size) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("the draft vocabulary holds token {}, the token shards have a vocabulary of "
                      "{}: they are of different models",
                      id, vocab_size),
          "make it from shards of the same model with `outrider data calibrate`");
    }
    member[static_cast<size_t>(id)] = true;
  }
  return member;
}

void count_tokens(const std::vector<int64_t>& counts, const std::vector<bool>& member,
                  DraftCoverage& coverage) {
  for (size_t id = 0; id < counts.size(); ++id) {
    if (counts[id] == 0) continue;
    coverage.targets += counts[id];
    ++coverage.distinct_targets;
    if (member[id]) {
      coverage.covered += counts[id];
      ++coverage.distinct_covered;
    } else {
      coverage.uncovered.push_back({static_cast<int64_t>(id), counts[id]});
    }
  }
  std::ranges::stable_sort(coverage.uncovered, std::greater<>(), &DraftCoverage::Token::count);
}

/// Sums over answers for the bounds at 1, 2, … draft tokens.
class PassCounter {
 public:
  explicit PassCounter(int64_t most_draft_tokens)
      : passes_(static_cast<size_t>(most_draft_tokens)), accepted_(passes_.size()) {}

  /// `covered`: for each token of an answer whether the draft can propose it.
  void add(const std::vector<bool>& covered) {
    const auto runs = covered_runs(covered);
    tokens_ += static_cast<int64_t>(runs.size());
    for (size_t k = 0; k < passes_.size(); ++k) {
      const auto most = static_cast<int64_t>(k) + 1;
      for (const auto run : runs) accepted_[k] += std::min(run, most);
      for (size_t t = 0; t < runs.size(); ++passes_[k]) {
        t += static_cast<size_t>(std::min(runs[t], most)) + 1;
      }
    }
  }

  std::vector<DraftCoverage::Bound> bounds() const {
    std::vector<DraftCoverage::Bound> bounds;
    const auto tokens = static_cast<double>(tokens_);
    for (size_t k = 0; k < passes_.size(); ++k) {
      bounds.push_back({static_cast<int64_t>(k) + 1, tokens / static_cast<double>(passes_[k]),
                        1 + static_cast<double>(accepted_[k]) / tokens});
    }
    return bounds;
  }

 private:
  /// How many tokens from each one on are covered without a gap.
  static std::vector<int64_t> covered_runs(const std::vector<bool>& covered) {
    std::vector<int64_t> runs(covered.size());
    int64_t run = 0;
    for (size_t t = covered.size(); t-- > 0;) runs[t] = run = covered[t] ? run + 1 : 0;
    return runs;
  }

  std::vector<int64_t> passes_, accepted_;
  int64_t tokens_ = 0;
};

std::vector<DraftCoverage::Bound> decoding_bounds(const TokenShards& shards,
                                                  const std::vector<bool>& member,
                                                  int64_t most_draft_tokens) {
  PassCounter counter(most_draft_tokens);
  std::vector<bool> answer;
  for (int64_t i = 0; i < shards.size(); ++i) {
    const auto [ids, mask] = shards.conversation(i);
    for (size_t t = 0; t < ids.size(); ++t) {
      if (!mask[t]) continue;
      answer.push_back(member[static_cast<size_t>(ids[t])]);
      if (t + 1 < ids.size() && mask[t + 1]) continue;
      counter.add(answer);
      answer.clear();
    }
  }
  return counter.bounds();
}

}  // namespace

DraftVocabulary DraftVocabulary::read(const fs::path& path) {
  const auto file = SafetensorsFile::open(path);
  const auto found = file->tensors().find("d2t");
  if (found == file->tensors().end() || found->second.dtype != "I64" ||
      found->second.shape.size() != 1 || found->second.bytes.empty()) {
    refuse_vocabulary(path, "no int64 tensor 'd2t' [draft vocabulary]");
  }
  DraftVocabulary vocabulary;
  vocabulary.ids.resize(found->second.bytes.size() / sizeof(int64_t));
  std::memcpy(vocabulary.ids.data(), found->second.bytes.data(), found->second.bytes.size());
  for (size_t i = 0; i < vocabulary.ids.size(); ++i) {
    auto& id = vocabulary.ids[i];
    if (__builtin_add_overflow(id, static_cast<int64_t>(i), &id) ||
        id <= (i == 0 ? -1 : vocabulary.ids[i - 1])) {
      refuse_vocabulary(path, fmt::format("i + d2t[i] must increase from 0 on, does not at {}", i));
    }
  }
  return vocabulary;
}

void DraftVocabulary::write(const fs::path& path, int64_t vocab_size, double coverage) const {
  std::vector<int64_t> d2t(ids);
  for (size_t i = 0; i < d2t.size(); ++i) d2t[i] -= static_cast<int64_t>(i);
  const TensorView view{"I64", {static_cast<int64_t>(d2t.size())}, std::as_bytes(std::span(d2t))};
  write_safetensors(path, {{"d2t", view}},
                    {{"kind", "draft_vocabulary"},
                     {"vocab_size", std::to_string(vocab_size)},
                     {"coverage", fmt::format("{:.6f}", coverage)}});
}

DraftVocabulary DraftVocabulary::most_frequent(const TokenShards& shards, int64_t size) {
  if (size > shards.vocab_size()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--size {} is more than the vocabulary's {} tokens", size,
                            shards.vocab_size()));
  }
  const auto counts = shards.target_counts();
  const auto special = special_tokens(shards);
  std::vector<int64_t> ids(counts.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto rank = [&](int64_t id) {
    return std::pair(special[id] && counts[id] > 0, counts[id]);
  };
  std::ranges::stable_sort(ids, std::greater<>(), rank);
  ids.resize(static_cast<size_t>(size));
  std::ranges::sort(ids);
  return {ids};
}

DraftCoverage measure_coverage(const TokenShards& shards, const DraftVocabulary& vocabulary,
                               int64_t most_draft_tokens) {
  const auto member = membership(vocabulary, shards.vocab_size());
  DraftCoverage coverage;
  count_tokens(shards.target_counts(), member, coverage);
  coverage.bounds = decoding_bounds(shards, member, most_draft_tokens);
  return coverage;
}

}  // namespace outrider
