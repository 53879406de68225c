#include "generate/evaluation_folder.h"

#include <fmt/format.h>

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
  fs::create_directories(path / kWaysFolder, error);
  if (!error) return;
  throw Error(ErrorCode::kWriteFailed,
              fmt::format("{}: cannot be made: {}", in_quotes(path.string()), error.message()));
}

void require_ours(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return;
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

}  // namespace

std::string model_sha256(const fs::path& folder) {
  std::set<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto extension = entry.path().extension();
    const bool is_ours = extension == ".safetensors" || extension == ".json";
    if (is_ours && entry.is_regular_file()) files.insert(entry.path());
  }
  std::string hashes;
  for (const auto& file : files) hashes += file.filename().string() + sha256_of_file(file);
  return sha256_of(hashes);
}

EvaluationFolder::EvaluationFolder(fs::path path, Json settings)
    : path_(std::move(path)), settings_(std::move(settings)) {
  require_ours(path_);
  if (fs::exists(path_ / kSettingsFile)) take_up(read_json_file(path_ / kSettingsFile));
  make_folder(path_);
  settings_["written_by"] = fmt::format("outrider {}", version());
  write_json_file(path_ / kSettingsFile, settings_);
}

void EvaluationFolder::take_up(const Json& before) {
  const auto file = path_ / kSettingsFile;
  const auto is_object = [&](const char* key) {
    return before.is_object() && before.contains(key) && before[key].is_object();
  };
  if (!is_object("options") || !is_object("models")) {
    throw Error(ErrorCode::kInvalidFile,
                in_quotes(file.string()) + ": 'options' or 'models' is missing or no object",
                "give another folder");
  }
  auto problems = differences(settings_["options"], before["options"]);
  for (const auto& [model, hash] : before["models"].items()) {
    auto& now = settings_["models"][model];
    if (now.is_null()) now = hash;
    if (now != hash) problems.push_back(fmt::format("the files of {} changed", in_quotes(model)));
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
