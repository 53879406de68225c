#include "trainer/run_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <system_error>
#include <utility>

#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/text.h"
#include "trainer/metrics_log.h"
#include "trainer/training_state.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr int kRunVersion = 1;

/// ".NAME.tmp-…": what the writers of files and folders that appear whole work in.
bool is_leftover(const fs::path& path) {
  const auto name = path.filename().string();
  return name.starts_with(".") && name.find(".tmp-") != std::string::npos;
}

bool holds_nothing(const fs::path& folder) {
  const fs::directory_iterator entries(folder);
  return std::all_of(begin(entries), end(entries),
                     [](const auto& entry) { return is_leftover(entry.path()); });
}

bool is_run(const fs::path& folder) {
  return fs::exists(folder / RunFolder::kRecordFile) || !checkpoint_folders(folder).empty() ||
         holds_nothing(folder);
}

void check_resumable(const fs::path& path) {
  const auto name = in_quotes(path.string());
  if (!fs::exists(path)) {
    throw Error(ErrorCode::kFileNotFound, name + ": no such folder, so there is no run to resume",
                "start the run without --resume, or correct --out");
  }
  if (fs::is_directory(path) && is_run(path)) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} is no folder of a run: it has neither {} nor a checkpoint", name,
                          RunFolder::kRecordFile),
              "give the folder that the run was started with (--out)");
}

void check_new(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return;
  if (fs::is_directory(path, error) && fs::is_empty(path, error)) return;
  throw Error(ErrorCode::kFileExists,
              in_quotes(path.string()) + " exists and is not an empty folder",
              fs::is_directory(path, error) && is_run(path)
                  ? "continue the run in it with --resume, or choose another folder"
                  : "choose another folder");
}

}  // namespace

RunFolder::RunFolder(fs::path path, bool resume) : path_(std::move(path)), is_kept_(resume) {
  check(path_, resume);
  if (!resume) make();
  claim_.emplace(path_, "training",
                 "wait for it, or end it with Ctrl-C and continue with --resume");
}

void RunFolder::check(const fs::path& path, bool resume) {
  resume ? check_resumable(path) : check_new(path);
}

bool RunFolder::is_finished(const fs::path& path) {
  if (!fs::exists(path / kRecordFile) || !fs::exists(path / "final" / "config.json")) return false;
  const auto json = read_json_file(path / kRecordFile);
  return json.is_object() && json.value("summary", Json()).is_object();
}

void RunFolder::make() {
  std::error_code error;
  is_made_ = fs::create_directories(path_, error);
  if (!error) return;
  throw Error(ErrorCode::kWriteFailed,
              fmt::format("cannot create {}: {}", in_quotes(path_.string()), error.message()));
}

RunFolder::~RunFolder() {
  if (!is_kept_) {
    std::error_code ignored;
    fs::remove(path_ / MetricsLog::kFileName, ignored);
    fs::remove(path_ / kRecordFile, ignored);
    if (is_made_) fs::remove(path_, ignored);  // where it is empty
  }
}

std::optional<Json> RunFolder::record() const {
  const auto file = path_ / kRecordFile;
  if (!fs::exists(file)) return std::nullopt;
  auto json = read_json_file(file);
  if (!json.is_object() || !json.contains("format_version") || !json.contains("fixed_options") ||
      !json["fixed_options"].is_object() || !json.contains("starts") ||
      !json["starts"].is_array()) {
    throw Error(ErrorCode::kInvalidFile,
                fmt::format("{}: 'format_version', 'fixed_options' or 'starts' is missing or of a "
                            "wrong type",
                            in_quotes(file.string())),
                "start a new run in another folder, from a checkpoint of this one");
  }
  if (json["format_version"] == kRunVersion) return json;
  throw Error(ErrorCode::kIncompatibleCheckpoint,
              fmt::format("{}: format_version {}, this program reads {}", in_quotes(file.string()),
                          printable(json["format_version"].dump(), 40), kRunVersion),
              "resume with the version of Outrider that wrote it");
}

void RunFolder::write_record(Json record) const {
  record["format_version"] = kRunVersion;
  // Names of files need not be UTF-8, which JSON is.
  const auto text = record.dump(-1, ' ', false, Json::error_handler_t::replace);
  write_json_file(path_ / kRecordFile, Json::parse(text));
}

void RunFolder::remove_leftovers() const {
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(path_)) {
    if (is_leftover(entry.path())) leftovers.push_back(entry.path());
  }
  std::error_code ignored;
  for (const auto& path : leftovers) fs::remove_all(path, ignored);
}

}  // namespace outrider
