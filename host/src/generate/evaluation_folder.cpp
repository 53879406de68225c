#include "generate/evaluation_folder.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdint>
#include <ostream>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "json_differences.h"
#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/files/json_file.h"
#include "outrider/host/sha256.h"
#include "outrider/text.h"
#include "outrider/version.h"
#include "report/evaluation_page.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSettingsFile = "evaluation.json";
constexpr const char* kWaysFolder = "ways";
constexpr size_t kDigits = 16;                    // of a key's hash, in a file's name
constexpr JsonLimits kLimits{.bytes = 1u << 30};  // answers of many prompts

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (!error) return;
  throw Error(ErrorCode::kWriteFailed,
              fmt::format("{}: cannot be made: {}", in_quotes(path.string()), error.message()));
}

void require_ours(const fs::path& path) {
  std::error_code error;
  if (fs::is_directory(path, error) &&
      (fs::exists(path / kSettingsFile, error) || fs::is_empty(path, error))) {
    return;
  }
  throw Error(ErrorCode::kFileExists,
              in_quotes(path.string()) + " exists and is not the folder of an evaluation",
              "give a new folder, or one that `outrider eval` wrote");
}

std::string file_stem(const Json& key) {
  return fmt::format("{}-{}", key.value("drafter", std::string("way")),
                     sha256_of(key.dump()).substr(0, kDigits));
}

bool is_of_first(const Measurement& measurement, const std::vector<MeasuredTokens>& batches) {
  const auto& measured = measurement.batches;
  if (measured.size() > batches.size()) return false;
  for (size_t i = 0; i < measured.size(); ++i) {
    if (measured[i].prompts != batches[i].size()) return false;
  }
  return true;
}

/// The files that make a folder's model: config, state, weights.
std::set<fs::path> files_of_model(const fs::path& folder) {
  std::set<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto extension = entry.path().extension();
    const bool is_ours = extension == ".safetensors" || extension == ".json";
    if (is_ours && entry.is_regular_file()) files.insert(entry.path());
  }
  return files;
}

int64_t nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

/// What is another once a file was written to or replaced: inode, bytes, and the times of the last
/// change, of which the second is nobody's to set.
Json stamp_of(const fs::path& file) {
  struct stat status;
  if (::stat(file.c_str(), &status) != 0) return nullptr;
  return {status.st_ino, status.st_size, nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

Json stamps_of_model(const fs::path& folder) {
  Json stamps = Json::object();
  for (const auto& file : files_of_model(folder)) {
    stamps[printable(file.filename().string())] = stamp_of(file);
  }
  return stamps;
}

std::string sha256_of_model(const fs::path& folder) {
  std::string hashes;
  for (const auto& file : files_of_model(folder)) {
    hashes += file.filename().string() + sha256_of_file(file);
  }
  return sha256_of(hashes);
}

}  // namespace

EvaluationFolder::EvaluationFolder(fs::path path, Json options, const std::vector<fs::path>& models)
    : path_(std::move(path)) {
  if (!fs::exists(path_)) make_folder(path_);
  claim_.emplace(path_, "evaluating", "wait for it, or give another --out");
  require_ours(path_);
  const auto before = settings_before();
  settings_ = {{"written_by", fmt::format("outrider {}", version())},
               {"options", std::move(options)},
               {"models", before["models"]},
               {"files", before["files"]}};
  note_models(models, before);
  require_same(before);
  make_folder(path_ / kWaysFolder);
  write_json_file(path_ / kSettingsFile, settings_);
}

/// Of a new folder no options, models and files.
Json EvaluationFolder::settings_before() const {
  const auto file = path_ / kSettingsFile;
  const Json none = Json::object();
  if (!fs::exists(file)) return {{"options", nullptr}, {"models", none}, {"files", none}};
  auto before = read_json_file(file);
  const auto is_object = [&](const char* key) {
    return before.is_object() && before.contains(key) && before[key].is_object();
  };
  if (!is_object("options") || !is_object("models")) {
    throw Error(ErrorCode::kInvalidFile,
                in_quotes(file.string()) + ": 'options' or 'models' is missing or no object",
                "give another folder");
  }
  if (!is_object("files")) before["files"] = none;
  return before;
}

void EvaluationFolder::note_models(const std::vector<fs::path>& models, const Json& before) {
  for (const auto& folder : models) {
    const auto name = folder.string();
    auto stamps = stamps_of_model(folder);
    const auto was = before["models"].value(name, Json());
    const bool is_known = !was.is_null() && before["files"].value(name, Json()) == stamps;
    settings_["models"][name] = is_known ? was : Json(sha256_of_model(folder));
    settings_["files"][name] = std::move(stamps);
  }
}

void EvaluationFolder::require_same(const Json& before) const {
  if (before["options"].is_null()) return;
  auto problems = differences(settings_["options"], before["options"]);
  for (const auto& [model, hash] : before["models"].items()) {
    if (settings_["models"][model] == hash) continue;
    problems.push_back(fmt::format("the files of {} changed", in_quotes(model)));
  }
  if (problems.empty()) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} is of an evaluation with other settings: {}",
                          in_quotes(path_.string()), join(problems, "; ")),
              "give the options that it was begun with, or another --out");
}

fs::path EvaluationFolder::file_of(const Json& key) const {
  return path_ / kWaysFolder / (file_stem(key) + ".json");
}

Measurement EvaluationFolder::measured(const Json& key,
                                       const std::vector<MeasuredTokens>& batches) const {
  const auto file = file_of(key);
  if (!fs::exists(file)) return {};
  const auto json = read_json_file(file, kLimits);
  try {
    auto measurement = measurement_in(json.at("measured"));
    if (json.at("way") == key && is_of_first(measurement, batches)) return measurement;
  } catch (const Json::exception&) {
    // Said below.
  }
  throw Error(ErrorCode::kInvalidFile,
              in_quotes(file.string()) + ": not the measurement that its name says",
              "delete the file, and it is measured anew");
}

void EvaluationFolder::keep(const Json& key, const Measurement& measurement) const {
  write_json_file(file_of(key), {{"way", key}, {"measured", to_json(measurement)}});
}

void EvaluationFolder::write_report(Json results, bool is_finished) const {
  for (auto& way : results["ways"]) way.erase("answers");
  results["finished"] = is_finished;
  write_json_file(path_ / "results.json", results);
  write_file_atomically(path_ / "report.html", [&](std::ostream& out) {
    out << report::evaluation_page(results, settings_);
  });
}

}  // namespace outrider
