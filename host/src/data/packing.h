#pragma once

#include <cstdint>
#include <vector>

#include "outrider/api.h"
#include "outrider/host/token_shards.h"

namespace outrider {

/// Conversations put into rows.
struct PackedRows {
  std::vector<ConversationRow> rows;
  std::vector<int64_t> lengths;  // tokens of each row, in the same order
};

/// Each conversation in a row of its own.
OUTRIDER_API PackedRows unpacked(const std::vector<int64_t>& conversations,
                                 std::vector<int64_t> lengths);

/// As few rows of at most `row_length` tokens as best-fit decreasing finds, each conversation whole
/// in one of them; `lengths`: the conversations' tokens, at most `row_length` each. The same for
/// the same arguments on every platform.
OUTRIDER_API PackedRows packed(const std::vector<int64_t>& conversations,
                               const std::vector<int64_t>& lengths, int64_t row_length);

}  // namespace outrider
