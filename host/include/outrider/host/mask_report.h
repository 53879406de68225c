#pragma once

#include <cstdint>
#include <vector>

#include "outrider/api.h"
#include "outrider/host/token_shards.h"
#include "outrider/json.h"

namespace outrider {

/// `count` conversations of `length` tokens, `trained` of them trained on.
struct ConversationShape {
  int64_t length, trained, count = 1;
};

OUTRIDER_API std::vector<ConversationShape> conversation_shapes(const TokenShards& shards);

/// Lengths and loss masks in figures: "conversations", "tokens", "trained_tokens",
/// "without_trained_token", "with_every_token_trained"; "length": min, median, mean, p90, max;
/// "trained_share": all, and of single conversations min, median, max; "histogram": objects with
/// from, to and count, whose bounds are powers of two. Quantiles are those of the nearest rank.
/// `shapes` must hold at least one conversation with a token.
OUTRIDER_API Json mask_report(const std::vector<ConversationShape>& shapes);

}  // namespace outrider
