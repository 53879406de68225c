#include "generate/decoding_way.h"

#include <fmt/format.h>

#include <charconv>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

constexpr const char* kNames[] = {"none", "model", "prompt-lookup"};
constexpr int64_t kMostTokens = 1024;

Error no_draft(const std::string& text) {
  return Error(
      ErrorCode::kInvalidArgument,
      fmt::format("{} is no shape and number of draft tokens", in_quotes(text)),
      fmt::format("SHAPE:N, such as chain:3; SHAPE is chain, static-tree or dynamic-tree, N "
                  "is 1 to {}",
                  kMostTokens));
}

}  // namespace

Json to_json(const DecodingWay& way) {
  Json json = {{"drafter", kNames[static_cast<size_t>(way.drafter)]},
               {"batch_size", way.batch_size}};
  if (way.drafter == DrafterKind::kNone) return json;
  json["draft_shape"] = name_of(way.draft.shape);
  json["num_draft_tokens"] = DraftPlan(way.draft).request().max_tokens;
  if (way.draft.shape != DraftShape::kChain) {
    json["draft_depth"] = way.draft.depth;
    json["draft_width"] = way.draft.width;
  }
  return json;
}

std::vector<DraftSettings> default_drafts() {
  std::vector<DraftSettings> drafts;
  for (const int64_t tokens : {1, 2, 3, 5}) drafts.push_back({DraftShape::kChain, tokens});
  for (const auto shape : {DraftShape::kStaticTree, DraftShape::kDynamicTree}) {
    for (const int64_t tokens : {8, 16}) drafts.push_back({shape, tokens});
  }
  return drafts;
}

DraftSettings parse_draft(const std::string& text, const DraftSettings& like) {
  const auto colon = text.find(':');
  const auto shape = draft_shapes().find(text.substr(0, colon));
  if (colon == std::string::npos || shape == draft_shapes().end()) throw no_draft(text);
  DraftSettings draft{shape->second, 0, like.depth, like.width};
  const auto* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + colon + 1, end, draft.tokens);
  if (error != std::errc() || rest != end || draft.tokens < 1 || draft.tokens > kMostTokens) {
    throw no_draft(text);
  }
  return draft;
}

}  // namespace outrider
