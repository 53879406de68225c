#pragma once

#include <filesystem>
#include <optional>

#include "machine/claimed_folder.h"
#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// The folder of a run, which no other process trains in while the object lives. `run.json` in it,
/// there before the first step, says which run it is.
class OUTRIDER_API RunFolder {
 public:
  static constexpr const char* kRecordFile = "run.json";

  /// With `resume` the folder of a run that was begun, however early it ended: one with run.json or
  /// a checkpoint, or an empty one. Throws kFileNotFound where there is none, and kInvalidArgument
  /// for a folder that is no run's. Otherwise makes a folder, or takes an empty one; it goes again
  /// unless it is kept. Throws kFileExists where there is something in it. Either way throws
  /// kWriteFailed when another process has it.
  RunFolder(std::filesystem::path path, bool resume);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  /// What a start or a resumption at this path would throw, before anything costly is done.
  static void check(const std::filesystem::path& path, bool resume);

  /// Whether the run at this path has come to its end.
  static bool is_finished(const std::filesystem::path& path);

  /// run.json; nothing where there is none. Throws kInvalidFile, kIncompatibleCheckpoint.
  std::optional<Json> record() const;
  void write_record(Json record) const;

  /// Deletes what processes left that were killed while they wrote.
  void remove_leftovers() const;
  void keep() { is_kept_ = true; }
  bool is_kept() const { return is_kept_; }

 private:
  void make();

  std::filesystem::path path_;
  bool is_made_ = false, is_kept_;
  std::optional<ClaimedFolder> claim_;
};

}  // namespace outrider
