#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "outrider/api.h"
#include "outrider/error.h"
#include "outrider/host/hidden_state_shards.h"
#include "outrider/host/token_shards.h"

namespace outrider {

struct TokenCounts {
  int64_t tokens = 0, trained = 0;  // without padding
};

/// A right-padded batch on the model's device, and what is in it.
struct TrainingInput {
  ForwardInput forward;
  TokenCounts counts;
};

/// Token shards, and the base's stored outputs where the folder holds them: those are then read
/// instead of running the base.
class OUTRIDER_API TrainingData {
 public:
  /// Throws as both kinds of shards do, kInvalidData for a base without decoder layers and a folder
  /// without hidden states, kInvalidArgument for hidden states when the base itself is trained.
  TrainingData(const std::filesystem::path& folder, const CausalLM& model,
               TokenShards::Part part = {});

  const TokenShards& tokens() const { return tokens_; }
  bool has_hidden_states() const { return hidden_states_.has_value(); }
  /// Of the widest of these rows: `max_length` where one holds several conversations.
  int64_t width(const std::vector<ConversationRow>& rows, int64_t max_length) const;
  /// Padded to at least `width` tokens. Rows of more than one conversation need `max_length`
  /// tokens, and data without hidden states.
  TrainingInput batch(const std::vector<ConversationRow>& rows, int64_t max_length,
                      int64_t width = 0) const;

  /// kNonFinite about the first of these conversations for which the base, or what is stored of it,
  /// has values that are not finite; nothing where there is none. Slow: for when a loss is wrong.
  std::optional<Error> base_fault(CausalLM& model, const std::vector<int64_t>& conversations,
                                  int64_t max_length) const;

 private:
  TrainingInput padded_batch(const std::vector<int64_t>& conversations, int64_t max_length,
                             int64_t width) const;
  int64_t few_widths(const std::vector<int64_t>& conversations, int64_t max_length,
                     int64_t width) const;

  TokenShards tokens_;
  std::optional<HiddenStateShards> hidden_states_;
  std::vector<int64_t> layers_;  // ascending
  at::Device device_;
};

}  // namespace outrider
