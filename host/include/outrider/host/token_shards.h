#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <vector>

#include "outrider/api.h"
#include "outrider/checkpoint/safetensors.h"
#include "outrider/json.h"
#include "outrider/model/train_batch.h"

namespace outrider {

/// Conversations that share a row of a batch, in their order.
using ConversationRow = std::vector<int64_t>;

/// Tokenised conversations as `outrider data prepare` writes them: a folder with `shards.json` and
/// `shard-NNNNN.safetensors`, each with input_ids [tokens] int32, loss_mask [tokens] uint8 and
/// offsets [conversations + 1] int64. docs/data.md describes the format.
class OUTRIDER_API TokenShards {
 public:
  /// Reads every byte once. Throws kFileNotFound, kInvalidFile (another SHA-256 than shards.json
  /// says, bad offsets, ids outside the vocabulary, mask length) and kInvalidData when no token is
  /// trained on.
  static TokenShards open(const std::filesystem::path& folder) { return open(folder, {}); }

  /// Which of the files are checked here; others' processes check the others.
  struct Part {
    int64_t index = 0, count = 1;
  };
  /// The same, where several processes share the work: of files that are not of this part, neither
  /// hash nor values are looked at.
  static TokenShards open(const std::filesystem::path& folder, Part part);

  struct Conversation {
    std::span<const int32_t> input_ids;
    std::span<const uint8_t> loss_mask;
  };
  int64_t size() const { return static_cast<int64_t>(index_.size()); }
  Conversation conversation(int64_t i) const;
  int64_t token_count() const { return token_count_; }
  int64_t trained_token_count() const { return trained_token_count_; }
  int64_t vocab_size() const { return vocab_size_; }
  const Json& description() const { return description_; }  // shards.json

  /// Of the longest of these conversations, cut at `max_length` tokens.
  int64_t width(const std::vector<int64_t>& conversations, int64_t max_length) const;
  /// Right-padded batch of conversations, cut at `max_length` tokens; at least `width` wide.
  TrainBatch batch(const std::vector<int64_t>& conversations, int64_t max_length,
                   int64_t width = 0) const;

  /// The same of rows that hold one conversation or more, each cut at `max_length` tokens: a
  /// document each, the padding another. Rows are `width` wide, which all must fit into.
  TrainBatch packed_batch(const std::vector<ConversationRow>& rows, int64_t max_length,
                          int64_t width) const;

  /// How often each token id is a training target [vocab_size].
  std::vector<int64_t> target_counts() const;

 private:
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::vector<Conversation> index_;
  int64_t token_count_ = 0, trained_token_count_ = 0, vocab_size_ = 0;
  Json description_;
};

}  // namespace outrider
