#include "generate/text_helper.h"

namespace outrider {

TextHelper::TextHelper(const std::filesystem::path& folder)
    : tool_("outrider.text.serve", {"--model", folder.string()}, ToolNotes::kShown) {
  tool_.answer();
}

std::vector<int64_t> TextHelper::encode(const Json& prompt) {
  return tool_.ask({{"encode", prompt}}).get<std::vector<int64_t>>();
}

Questions TextHelper::questions(const Json& conversation) {
  const auto asked = tool_.ask({{"questions", conversation}});
  return {asked.at("questions").get<std::vector<Json>>(), asked.at("beside")};
}

std::string TextHelper::piece(size_t stream, const std::vector<int64_t>& tokens) {
  return tool_.ask({{"piece", {{"stream", stream}, {"ids", tokens}}}}).get<std::string>();
}

std::string TextHelper::text(const std::vector<int64_t>& tokens) {
  return tool_.ask({{"text", tokens}}).get<std::string>();
}

}  // namespace outrider
