#include "outrider/version.h"

#include "outrider/error.h"
#include "subject.h"

namespace outrider::fuzz {
namespace {

/// Two versions and a range, a line each.
std::vector<std::string> version_seeds() {
  return {"1.2.3\n0.1.0-rc.1+build\n^1.2", "2.0.0-alpha.10\n2.0.0-alpha.9\n>=2.0.0-alpha.1 <3",
          "0.0.1\n999999999.0.0\n~0.0.1 *"};
}

std::string line(const std::string& bytes, int index) {
  size_t begin = 0;
  for (; index > 0 && begin != std::string::npos; --index) {
    const auto end = bytes.find('\n', begin);
    begin = end == std::string::npos ? end : end + 1;
  }
  return begin == std::string::npos ? "" : bytes.substr(begin, bytes.find('\n', begin) - begin);
}

void check_order(const SemVer& a, const SemVer& b) {
  require((a <=> a) == 0, "a version equals itself");
  require(((a <=> b) < 0) == ((b <=> a) > 0), "versions are ordered one way");
  require(((a <=> b) == 0) == (a == b), "equal precedence is equality");
  require(SemVer::parse(a.to_string()) == a, "a version survives being written");
}

void read_version(const std::string& bytes) {
  const auto a = SemVer::parse(line(bytes, 0)), b = SemVer::parse(line(bytes, 1));
  check_order(a, b);
  require(VersionRange::parse("=" + a.to_string()).contains(a), "a version is in its own range");
  const auto range = VersionRange::parse(line(bytes, 2));
  const auto again = VersionRange::parse(range.to_string());
  require(range.contains(a) == again.contains(a) && range.contains(b) == again.contains(b),
          "a range survives being written");
}

}  // namespace

const Subject kVersion{"version", version_seeds, read_version, "0123456789.-+^~<>= *\nab"};

}  // namespace outrider::fuzz
