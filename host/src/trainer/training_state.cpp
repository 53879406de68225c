#include "trainer/training_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "data/plain_file_name.h"
#include "outrider/checkpoint/metadata.h"
#include "outrider/checkpoint/safetensors.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/sha256.h"
#include "outrider/text.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr int kStateVersion = 1;
constexpr const char* kJsonFile = "training_state.json";
constexpr const char* kTensorFile = "training_state.safetensors";
constexpr std::string_view kPrefix = "checkpoint-";
// In the JSON file: the hashes of the other files, and of what it says itself.
constexpr const char* kFilesKey = "files";
constexpr const char* kHashKey = "sha256";
constexpr const char* kByTimeKey = "by_time";
constexpr int64_t kKeptByTime = 2;

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

/// Written whole and not partly deleted.
bool is_complete(const fs::path& folder) {
  return fs::is_regular_file(folder / kJsonFile) && fs::is_regular_file(folder / kTensorFile);
}

bool flag_in(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_boolean() && found->get<bool>();
}

/// What a run resumes from; tokenizers and the like come along for other readers.
bool is_read_on_resuming(const fs::path& file) {
  static const std::set<std::string> names = {"config.json", CheckpointMetadata::kFileName,
                                              "model.safetensors.index.json"};
  return fs::is_regular_file(file) &&
         (file.extension() == ".safetensors" || names.contains(file.filename().string()));
}

Json hashes_of_files(const fs::path& folder) {
  Json hashes = Json::object();
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (!is_read_on_resuming(entry.path())) continue;
    hashes[entry.path().filename().string()] = sha256_of_file(entry.path());
  }
  return hashes;
}

std::string hash_of_record(Json json) {
  json.erase(kHashKey);
  return sha256_of(json.dump());
}

bool is_by_time(const fs::path& checkpoint) {
  try {
    const auto json = read_json_file(checkpoint / kJsonFile);
    return json.is_object() && flag_in(json, kByTimeKey);
  } catch (const Error&) {
    return false;  // a damaged one is no less worth keeping
  }
}

void remove_checkpoint(const fs::path& checkpoint) {
  // A deletion that is cut short must leave no half of a checkpoint under its name.
  const auto aside =
      checkpoint.parent_path() / fmt::format(".{}.tmp-removed", checkpoint.filename().string());
  fs::remove_all(aside);
  fs::rename(checkpoint, aside);
  fs::remove_all(aside);
}

/// Nothing where the file is as it was written.
std::optional<std::string> damage_of(const fs::path& file, const Json& recorded) {
  const auto name = file.filename().string();
  if (!fs::is_regular_file(file)) return name + " is missing";
  if (recorded == sha256_of_file(file)) return std::nullopt;
  return fmt::format("{} ({} bytes) is not as it was written: its SHA-256 is another", name,
                     fs::file_size(file));
}

/// Of a checkpoint whose writer recorded no hashes: whether its parts can be opened.
std::vector<std::string> damages_without_hashes(const fs::path& folder) {
  try {
    TrainingState::read(folder);
    read_json_file(folder / "config.json");
    SafetensorsFolder::open(folder);
  } catch (const Error& e) {
    return {e.what()};
  }
  return {};
}

void check_format_version(const Json& json, const fs::path& file) {
  const auto version = read_key<int>(json, "format_version", &Json::is_number_integer, file);
  if (version == kStateVersion) return;
  throw Error(ErrorCode::kIncompatibleCheckpoint,
              fmt::format("{}: format_version {}, this program reads {}", in_quotes(file.string()),
                          version, kStateVersion),
              "resume with the version of Outrider that wrote it");
}

}  // namespace

void TrainingState::write(const fs::path& folder) const {
  write_tensors(folder / kTensorFile, tensors);
  Json json = {{"format_version", kStateVersion},
               {"step", step},
               {"position", {{"epoch", position.epoch}, {"batch", position.batch}}},
               {"elapsed_seconds", elapsed_seconds},
               {"options", options},
               {"environment", environment},
               {"evaluation_pending", evaluation_pending},
               {kByTimeKey, by_time},
               {kFilesKey, hashes_of_files(folder)}};
  json[kHashKey] = hash_of_record(json);
  write_json_file(folder / kJsonFile, json);
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
  state.evaluation_pending = flag_in(json, "evaluation_pending");
  state.by_time = flag_in(json, kByTimeKey);
  state.tensors = read_tensors(folder / kTensorFile);
  return state;
}

fs::path checkpoint_path(const fs::path& run, int64_t step) {
  return run / fmt::format("{}{}", kPrefix, step);
}

std::optional<int64_t> step_in_name(const fs::path& checkpoint) {
  const auto name = checkpoint.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const auto* end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + kPrefix.size(), end, step);
  return parsed.ec == std::errc() && parsed.ptr == end ? std::optional(step) : std::nullopt;
}

std::vector<fs::path> checkpoint_folders(const fs::path& run) {
  std::vector<std::pair<int64_t, fs::path>> found;
  std::error_code no_such_folder;
  for (const auto& entry : fs::directory_iterator(run, no_such_folder)) {
    const auto step = step_in_name(entry.path());
    if (step && entry.is_directory()) found.emplace_back(*step, entry.path());
  }
  std::sort(found.begin(), found.end());
  std::vector<fs::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::vector<std::string> damages(const fs::path& checkpoint) {
  const auto file = checkpoint / kJsonFile;
  if (!fs::is_regular_file(file)) return {std::string(kJsonFile) + " is missing"};
  Json json;
  try {
    json = read_json_file(file);
  } catch (const Error& e) {
    return {e.what()};
  }
  if (!json.is_object()) return {std::string(kJsonFile) + " holds no JSON object"};
  if (!json.contains(kFilesKey)) return damages_without_hashes(checkpoint);
  if (!json[kFilesKey].is_object() || json.value(kHashKey, Json()) != hash_of_record(json)) {
    return {std::string(kJsonFile) + " is not as it was written"};
  }
  std::vector<std::string> problems;
  for (const auto& [name, hash] : json[kFilesKey].items()) {
    if (!is_plain_file_name(name)) continue;
    if (auto damage = damage_of(checkpoint / name, hash)) problems.push_back(*std::move(damage));
  }
  return problems;
}

std::vector<fs::path> checkpoints(const fs::path& run) {
  auto all = checkpoint_folders(run);
  std::erase_if(all, [](const fs::path& folder) { return !is_complete(folder); });
  return all;
}

void remove_old_checkpoints(const fs::path& run, int64_t keep) {
  auto all = checkpoints(run);
  if (keep <= 0) {
    std::erase_if(all, [](const fs::path& folder) { return !is_by_time(folder); });
    keep = kKeptByTime;
  }
  if (static_cast<int64_t>(all.size()) <= keep) return;
  std::for_each(all.begin(), all.end() - keep, remove_checkpoint);
}

}  // namespace outrider
