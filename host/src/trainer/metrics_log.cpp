#include "trainer/metrics_log.h"

#include <fmt/format.h>

#include <ostream>
#include <string>
#include <system_error>

#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/text.h"

namespace outrider {
namespace {

bool belongs_before(const std::string& line, int64_t step) {
  const auto json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return false;
  const auto found = json.find("step");
  return found != json.end() && found->is_number_integer() && found->get<int64_t>() <= step;
}

void cut_back(const std::filesystem::path& path, int64_t step) {
  std::ifstream before(path);
  if (!before) return;
  write_file_atomically(path, [&](std::ostream& out) {
    for (std::string line; std::getline(before, line);) {
      if (belongs_before(line, step)) out << line << '\n';
    }
  });
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& run, int64_t step) : path_(run / kFileName) {
  cut_back(path_, step);
  open();
}

void MetricsLog::open() {
  file_.open(path_, std::ios::app);
  if (!file_) {
    throw Error(ErrorCode::kWriteFailed,
                fmt::format("{}: cannot be opened for writing", in_quotes(path_.string())));
  }
}

bool MetricsLog::append(const Json& line) {
  pending_ += line.dump() + '\n';
  return write_pending();
}

void MetricsLog::flush() {
  if (write_pending()) return;
  throw Error(ErrorCode::kWriteFailed,
              fmt::format("{}: cannot be written", in_quotes(path_.string())),
              "free some disk space and continue with --resume");
}

bool MetricsLog::write_pending() {
  if (pending_.empty()) return true;
  std::error_code error;
  const auto size = std::filesystem::file_size(path_, error);
  file_ << pending_ << std::flush;
  if (file_) {
    pending_.clear();
    return true;
  }
  // What was written of it may be half a line.
  file_ = std::ofstream();
  if (!error) std::filesystem::resize_file(path_, size, error);
  open();
  return false;
}

}  // namespace outrider
