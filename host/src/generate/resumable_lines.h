#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// The one key of the first line of an unfinished file; its value says what the file is made of.
constexpr const char* kUnfinishedKey = "outrider_unfinished";

/// A JSON Lines file that may take several runs. Until finish() its first line marks it as
/// unfinished, and readers refuse it. One process at a time; without a line it disappears.
class OUTRIDER_API ResumableLines {
 public:
  /// With `resume`, what a run with the same `identity` left is continued, if there is anything.
  /// Throws kFileExists for other files and without `resume`, kInvalidArgument naming what differs,
  /// kInvalidFile, kWriteFailed.
  ResumableLines(std::filesystem::path path, Json identity, bool resume);
  ~ResumableLines();
  ResumableLines(const ResumableLines&) = delete;
  ResumableLines& operator=(const ResumableLines&) = delete;

  /// How many whole lines there are behind the first.
  size_t count() const { return ends_.size() - 1; }
  /// Cuts what is behind the first `count` of them.
  void keep(size_t count);
  /// On disk when this returns. Throws kWriteFailed.
  void append(const std::vector<Json>& lines);
  /// Writes the file anew, atomically, with the lines for which `is_kept` and without the mark.
  void finish(const std::function<bool(const Json&)>& is_kept);

 private:
  void open(bool resume);
  void read_existing(bool resume);
  void check_identity(const Json& before) const;
  void write(const std::string& text);

  std::filesystem::path path_;
  Json identity_;
  int descriptor_ = -1;
  bool finished_ = false;
  std::vector<size_t> ends_;  // in bytes, of the first line and of each behind it
};

}  // namespace outrider
