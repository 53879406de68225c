#pragma once

#include <doctest/doctest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "outrider/error.h"

namespace outrider::test {

namespace fs = std::filesystem;

/// A folder of its own for each test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "outrider_formats_XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }
  fs::path operator/(const fs::path& name) const { return path_ / name; }

  /// The names in the folder, hidden ones too, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  fs::path path_;
};

inline void put(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string get(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

using Names = std::vector<std::string>;

/// Checks that `run` fails with this code and a message that contains `part`; returns the message.
template <class Run>
std::string check_error(ErrorCode code, std::string_view part, Run run) {
  try {
    run();
  } catch (const Error& error) {
    const std::string what = error.what();
    CAPTURE(what);
    CHECK(error_code_name(error.code()) == error_code_name(code));
    CHECK_MESSAGE(what.find(part) != what.npos, "the message lacks: ", part);
    return what;
  }
  FAIL_CHECK("nothing was thrown; expected a message with: ", part);
  return {};
}

}  // namespace outrider::test
