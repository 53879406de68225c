#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/checkpoint/safetensors.h"
#include "outrider/error.h"
#include "outrider/host/token_shards.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// What a base computed on token shards, in the same folder: `hidden_states.json`, and
/// `hidden-NNNNN.safetensors` with the rows of consecutive conversations, `last_hidden` [tokens,h]
/// and `layer.K` [tokens,h] for each stored layer K. Written by write_hidden_states().
class OUTRIDER_API HiddenStateShards {
 public:
  static constexpr const char* kFileName = "hidden_states.json";

  static bool exist_in(const std::filesystem::path& folder);
  /// Throws kFileNotFound, kInvalidFile (naming every problem of the description), and kInvalidData
  /// when they were made from other token shards.
  static HiddenStateShards open(const std::filesystem::path& folder, const TokenShards& tokens);

  /// Throws kIncompatibleCheckpoint unless they come from this model's base weights, and
  /// kInvalidData for a layer that its drafts read and the shards lack.
  void check_fits(const CausalLM& model) const;

  /// Padded with zeros on the right as TokenShards::batch() pads; `layers` in ascending order. The
  /// SHA-256 of a file is checked when it is first read from: kInvalidFile. Throws kInvalidArgument
  /// for a `max_length` beyond what is stored.
  StoredBaseOutputs batch(const std::vector<int64_t>& conversations, int64_t max_length,
                          const std::vector<int64_t>& layers, int64_t width = 0) const;

  /// kNonFinite that names file, tensor, conversation and token where one of these states is not
  /// finite; nothing where all are.
  std::optional<Error> fault(int64_t conversation, int64_t max_length,
                             const std::vector<int64_t>& layers) const;

 private:
  struct Shard {
    std::shared_ptr<const SafetensorsFile> file;
    std::string sha256;
  };
  struct Rows {
    size_t shard;
    int64_t begin, size;
  };
  void index(const Json& files, const TokenShards& tokens);
  const SafetensorsFile& verified(size_t shard) const;
  at::Tensor rows_of(const Rows& rows, const std::string& tensor) const;

  std::filesystem::path folder_;
  Json base_model_;
  std::vector<int64_t> layers_;
  bool is_prenorm_ = false;
  int64_t max_length_ = 0;  // 0: conversations are whole
  int64_t hidden_size_ = 0;
  std::vector<Shard> shards_;
  std::vector<Rows> rows_;  // by conversation
  std::shared_ptr<std::mutex> mutex_ = std::make_shared<std::mutex>();
  mutable std::vector<bool> is_verified_;
};

struct HiddenStateOptions {
  std::vector<int64_t> layers;  // ascending
  bool prenorm = false;         // store last_hidden from before the final norm
  int64_t max_length = 0;       // cut conversations (0: whole)
  int64_t batch_size = 1;
  int64_t max_shard_size = 1'000'000'000;  // bytes of tensors in one file, and of memory on the way
  /// After each batch: conversations done so far, all of them, and the tokens of those done. What
  /// it throws ends the work, and nothing is left of it.
  std::function<void(int64_t done, int64_t total, int64_t tokens)> on_progress;
};

/// Runs the base over token shards and writes a folder that holds both, atomically. Needs
/// model.weights_sha256(). Returns the description. Throws kInvalidArgument for a layer that the
/// base has not, kInvalidData for data of a larger vocabulary, kNonFinite (naming the layer) for
/// states that are not finite, kWriteFailed before anything is run where the disk has no room.
OUTRIDER_API Json write_hidden_states(CausalLM& model, const std::filesystem::path& data,
                                      const std::filesystem::path& out,
                                      const HiddenStateOptions& options);

}  // namespace outrider
