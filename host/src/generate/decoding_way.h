#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "generate/session.h"
#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// One way to decode prompts.
struct DecodingWay {
  DrafterKind drafter = DrafterKind::kNone;
  DraftSettings draft;  // what is drafted, where something is
  int64_t batch_size = 1;
};

/// {"drafter" ("none", "model", "prompt-lookup"), "batch_size"}, and where something is drafted
/// "draft_shape", "num_draft_tokens", "draft_depth" and "draft_width".
OUTRIDER_API Json to_json(const DecodingWay& way);

/// What a sweep drafts by default.
OUTRIDER_API std::vector<DraftSettings> default_drafts();

/// "chain:3": such a draft; depth and width of trees are those of `like`. Throws kInvalidArgument.
OUTRIDER_API DraftSettings parse_draft(const std::string& text, const DraftSettings& like);

}  // namespace outrider
