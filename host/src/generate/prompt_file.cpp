#include "generate/prompt_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "generate/resumable_lines.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "spread_places.h"

namespace outrider {
namespace {

constexpr const char* kPromptForms =
    "each line is an object with `input_ids` (tokens), `turns` (the first one counts), `messages`, "
    "or another form of conversation that `data prepare` reads";

void refuse_unfinished(const Json& first, const std::string& file) {
  if (!first.contains(kUnfinishedKey)) return;
  throw Error(ErrorCode::kInvalidFile,
              file + ": is unfinished: a run of `outrider data regenerate` was interrupted",
              "repeat its command with --resume");
}

bool is_blank(const std::string& line) {
  return line.find_first_not_of(" \t\r") == std::string::npos;
}

}  // namespace

std::vector<Json> read_prompt_file(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) {
    throw Error(ErrorCode::kFileNotFound, file.string() + ": no such file", kPromptForms);
  }
  std::ifstream stream(file);
  std::vector<Json> prompts;
  std::string line;
  for (size_t number = 1; std::getline(stream, line); ++number) {
    if (is_blank(line)) continue;
    const auto where = fmt::format("{}, line {}", file.string(), number);
    prompts.push_back(parse_json(line, where));
    if (!prompts.back().is_object()) {
      throw Error(ErrorCode::kInvalidFile, where + ": expected an object", kPromptForms);
    }
    if (prompts.size() == 1) refuse_unfinished(prompts.front(), file.string());
  }
  if (!stream.eof()) throw Error(ErrorCode::kFileUnreadable, file.string() + ": cannot be read");
  if (prompts.empty()) {
    throw Error(ErrorCode::kInvalidFile, file.string() + ": holds no prompts", kPromptForms);
  }
  return prompts;
}

std::vector<Json> spread(std::vector<Json> prompts, size_t count) {
  if (count == 0 || count >= prompts.size()) return prompts;
  std::vector<Json> chosen;
  for (const size_t place : spread_places(prompts.size(), count)) chosen.push_back(prompts[place]);
  return chosen;
}

bool has_tokens(const Json& prompt) { return prompt.contains("input_ids"); }

std::vector<int64_t> tokens_of(const Json& prompt, size_t number) {
  const auto& ids = prompt.at("input_ids");
  const bool fits = ids.is_array() && std::all_of(ids.begin(), ids.end(), [](const Json& id) {
                      return id.is_number_integer();
                    });
  if (fits) return ids.get<std::vector<int64_t>>();
  throw Error(ErrorCode::kInvalidFile,
              fmt::format("prompt {}: 'input_ids' must be a list of integers", number),
              kPromptForms);
}

}  // namespace outrider
