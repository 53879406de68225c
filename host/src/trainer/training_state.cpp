#include "trainer/training_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <utility>

#include "outrider/checkpoint/json_file.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr int kStateVersion = 1;
constexpr const char* kJsonFile = "training_state.json";
constexpr const char* kTensorFile = "training_state.safetensors";
constexpr std::string_view kPrefix = "checkpoint-";

template <class T>
T read_key(const Json& json, const char* key, bool (Json::*is_type)() const noexcept,
           const fs::path& file) {
  const auto found = json.find(key);
  if (found == json.end() || !((*found).*is_type)()) {
    throw Error(
        ErrorCode::kInvalidFile,
        fmt::format("{}: '{}' is missing or of a wrong type", in_quotes(file.string()), key),
        "resume from an older checkpoint: delete this checkpoint's folder");
  }
  return found->template get<T>();
}

/// The N of a folder named checkpoint-N that was written whole and not partly deleted.
std::optional<int64_t> complete_step(const fs::path& folder) {
  const auto name = folder.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const auto* end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
  if (!fs::is_regular_file(folder / kJsonFile) || !fs::is_regular_file(folder / kTensorFile)) {
    return std::nullopt;
  }
  return step;
}

void check_format_version(const Json& json, const fs::path& file) {
  const auto version = read_key<int>(json, "format_version", &Json::is_number_integer, file);
  if (version == kStateVersion) return;
  throw Error(ErrorCode::kIncompatibleCheckpoint,
              fmt::format("{}: format_version {}, this program reads {}", in_quotes(file.string()),
                          version, kStateVersion),
              "resume with the version of Outrider that wrote it");
}

std::string shown(const Json& json, const std::string& key) {
  return json.contains(key) ? printable(json.at(key).dump(), 80) : "not given";
}

}  // namespace

void TrainingState::write(const fs::path& folder) const {
  write_tensors(folder / kTensorFile, tensors);
  write_json_file(folder / kJsonFile,
                  {{"format_version", kStateVersion},
                   {"step", step},
                   {"position", {{"epoch", position.epoch}, {"batch", position.batch}}},
                   {"elapsed_seconds", elapsed_seconds},
                   {"options", options},
                   {"environment", environment}});
}

TrainingState TrainingState::read(const fs::path& folder) {
  const auto file = folder / kJsonFile;
  const auto json = read_json_file(file);
  check_format_version(json, file);
  const auto position = read_key<Json>(json, "position", &Json::is_object, file);
  TrainingState state;
  state.step = read_key<int64_t>(json, "step", &Json::is_number_unsigned, file);
  state.position = {read_key<int64_t>(position, "epoch", &Json::is_number_unsigned, file),
                    read_key<int64_t>(position, "batch", &Json::is_number_unsigned, file)};
  state.elapsed_seconds = read_key<double>(json, "elapsed_seconds", &Json::is_number, file);
  state.options = read_key<Json>(json, "options", &Json::is_object, file);
  state.environment = read_key<Json>(json, "environment", &Json::is_object, file);
  state.tensors = read_tensors(folder / kTensorFile);
  return state;
}

std::vector<std::string> differences(const Json& now, const Json& before) {
  std::set<std::string> keys;
  for (const auto* json : {&now, &before}) {
    for (const auto& [key, value] : json->items()) keys.insert(key);
  }
  std::vector<std::string> texts;
  for (const auto& key : keys) {
    if (now.contains(key) && before.contains(key) && now.at(key) == before.at(key)) continue;
    texts.push_back(
        fmt::format("{} is {}, was {}", printable(key), shown(now, key), shown(before, key)));
  }
  return texts;
}

fs::path checkpoint_path(const fs::path& run, int64_t step) {
  return run / fmt::format("{}{}", kPrefix, step);
}

std::vector<fs::path> checkpoints(const fs::path& run) {
  std::vector<std::pair<int64_t, fs::path>> found;
  std::error_code no_such_folder;
  for (const auto& entry : fs::directory_iterator(run, no_such_folder)) {
    if (const auto step = complete_step(entry.path())) found.emplace_back(*step, entry.path());
  }
  std::sort(found.begin(), found.end());
  std::vector<fs::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::optional<fs::path> newest_checkpoint(const fs::path& run) {
  auto all = checkpoints(run);
  if (all.empty()) return std::nullopt;
  return std::move(all.back());
}

void remove_old_checkpoints(const fs::path& run, int64_t keep) {
  const auto all = checkpoints(run);
  if (keep <= 0 || static_cast<int64_t>(all.size()) <= keep) return;
  for (auto it = all.begin(); it != all.end() - keep; ++it) {
    // A deletion that is cut short must leave no half of a checkpoint under its name.
    const auto aside = run / fmt::format(".{}.tmp-removed", it->filename().string());
    fs::remove_all(aside);
    fs::rename(*it, aside);
    fs::remove_all(aside);
  }
}

}  // namespace outrider
