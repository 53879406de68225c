#include "generate/resumable_lines.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>

#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/files/json_file.h"
#include "outrider/text.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOtherOut = "remove it, or choose another --out";

[[noreturn]] void fail_to_write(const fs::path& path) {
  throw Error(ErrorCode::kWriteFailed,
              fmt::format("{}: {}", path.string(), std::generic_category().message(errno)),
              "check free space and permissions, and continue with the same command and --resume");
}

std::string difference(const std::string& key, const Json& before, const Json& now) {
  return fmt::format("\n  {}: was {}, is {}", printable(key), printable(before.dump()),
                     printable(now.dump()));
}

}  // namespace

ResumableLines::ResumableLines(fs::path path, Json identity, bool resume)
    : path_(std::move(path)), identity_(std::move(identity)) {
  try {
    open(resume);
  } catch (...) {
    close(descriptor_);
    throw;
  }
}

ResumableLines::~ResumableLines() {
  if (!finished_ && count() == 0) unlink(path_.c_str());
  close(descriptor_);
}

void ResumableLines::open(bool resume) {
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_to_write(path_);
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    throw Error(ErrorCode::kFileExists, path_.string() + ": another run is writing to it",
                "wait for it to end, or choose another --out");
  }
  if (fs::file_size(path_) > 0) read_existing(resume);
  if (!ends_.empty()) return keep(count());  // without a line that a killed run began
  const auto mark = Json{{kUnfinishedKey, identity_}}.dump() + "\n";
  write(mark);
  ends_ = {mark.size()};
}

void ResumableLines::read_existing(bool resume) {
  std::ifstream stream(path_);
  std::string line;
  std::getline(stream, line);
  const auto first = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!first.is_object() || !first.contains(kUnfinishedKey)) {
    // Of a run that was killed at its very first write there is part of the mark.
    const auto mark = fmt::format("{{\"{}\":", kUnfinishedKey);
    const bool is_part = stream.eof() && (mark.starts_with(line) || line.starts_with(mark));
    if (!is_part) throw Error(ErrorCode::kFileExists, path_.string() + ": exists", kOtherOut);
    if (ftruncate(descriptor_, 0) != 0) fail_to_write(path_);
    return;
  }
  if (!resume) {
    throw Error(ErrorCode::kFileExists, path_.string() + ": holds what an interrupted run wrote",
                "continue it with the same command and --resume, or remove the file");
  }
  check_identity(first[kUnfinishedKey]);
  ends_ = {line.size() + 1};
  while (std::getline(stream, line) && !stream.eof())
    ends_.push_back(ends_.back() + line.size() + 1);
}

void ResumableLines::check_identity(const Json& before) const {
  std::string differences;
  for (const auto& [key, now] : identity_.items()) {
    const auto was = before.is_object() ? before.value(key, Json()) : Json();
    if (was != now) differences += difference(key, was, now);
  }
  if (differences.empty()) return;
  throw Error(ErrorCode::kInvalidArgument,
              path_.string() + ": the interrupted run differs from this one:" + differences,
              "repeat its command, or remove the file and start again without --resume");
}

void ResumableLines::keep(size_t count) {
  ends_.resize(count + 1);
  if (ftruncate(descriptor_, static_cast<off_t>(ends_.back())) != 0) fail_to_write(path_);
}

void ResumableLines::append(const std::vector<Json>& lines) {
  std::string text;
  auto ends = ends_;
  for (const auto& line : lines) {
    text += line.dump() + "\n";
    ends.push_back(ends_.back() + text.size());
  }
  write(text);
  ends_ = std::move(ends);
}

void ResumableLines::write(const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const auto count = ::write(descriptor_, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_to_write(path_);
    done += static_cast<size_t>(count);
  }
  if (fsync(descriptor_) != 0) fail_to_write(path_);
}

void ResumableLines::finish(const std::function<bool(const Json&)>& is_kept) {
  std::ifstream stream(path_);
  std::string line;
  std::getline(stream, line);
  write_file_atomically(path_, [&](std::ostream& out) {
    while (std::getline(stream, line)) {
      if (is_kept(parse_json(line, path_.string()))) out << line << '\n';
    }
  });
  finished_ = true;
}

}  // namespace outrider
