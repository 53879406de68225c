#include <sstream>

#include "outrider/version.h"
#include "support.h"

namespace outrider {
namespace {

using test::check_error;

TEST_CASE("the version of this build is a semantic version") {
  CHECK(SemVer::parse(version()).to_string() == version());
}

TEST_CASE("versions are parsed into their parts") {
  const auto plain = SemVer::parse("1.20.300");
  CHECK(plain.major == 1);
  CHECK(plain.minor == 20);
  CHECK(plain.patch == 300);
  CHECK(plain.prerelease.empty());
  CHECK(SemVer::parse("1.0.0-rc.1").prerelease == "rc.1");
  CHECK(SemVer::parse("1.0.0-x-y-z.0").prerelease == "x-y-z.0");
  CHECK(SemVer::parse("1.0.0+20130313144700") == SemVer{1, 0, 0, ""});
  CHECK(SemVer::parse("1.0.0-beta+exp-sha.5114f85").to_string() == "1.0.0-beta");
  CHECK(SemVer::parse("0.0.0-0a.--") == SemVer{0, 0, 0, "0a.--"});
}

TEST_CASE("what is no semantic version is refused") {
  for (const char* text : {"",
                           "1",
                           "1.2",
                           "1.2.3.4",
                           "v1.2.3",
                           "01.2.3",
                           "1.02.3",
                           "1.2.03",
                           "1.2.3-",
                           "1.2.3-01",
                           "1.2.3-a..b",
                           "1.2.3+",
                           "1.2.3+a+b",
                           "1.2.3-a_b",
                           " 1.2.3",
                           "1.2.3 ",
                           "-1.2.3",
                           "1.-2.3",
                           "1.2.x",
                           "1.2.3-\xc3\xa4",
                           "9999999999.0.0"}) {
    CAPTURE(text);
    check_error(ErrorCode::kInvalidArgument, "is not a semantic version",
                [&] { SemVer::parse(text); });
  }
  check_error(ErrorCode::kInvalidArgument, "too long",
              [] { SemVer::parse("1.2.3-" + std::string(1000, 'a')); });
}

TEST_CASE("precedence follows section 11 of semver.org") {
  const char* ascending[] = {"0.9.9",
                             "1.0.0-1",
                             "1.0.0-2",
                             "1.0.0-10",
                             "1.0.0-99999999999999999999",
                             "1.0.0-alpha",
                             "1.0.0-alpha.1",
                             "1.0.0-alpha.beta",
                             "1.0.0-beta",
                             "1.0.0-beta.2",
                             "1.0.0-beta.11",
                             "1.0.0-rc.1",
                             "1.0.0",
                             "1.0.1",
                             "1.2.0",
                             "1.10.0",
                             "2.0.0-0",
                             "2.0.0",
                             "2.1.0",
                             "2.1.1"};
  for (size_t i = 0; i < std::size(ascending); ++i) {
    for (size_t j = 0; j < std::size(ascending); ++j) {
      CAPTURE(ascending[i]);
      CAPTURE(ascending[j]);
      const auto a = SemVer::parse(ascending[i]), b = SemVer::parse(ascending[j]);
      CHECK((a <=> b) == (i <=> j));
      CHECK((a == b) == (i == j));
    }
  }
}

TEST_CASE("ranges contain what npm's would") {
  struct Row {
    const char *range, *inside, *outside;  // versions separated by blanks
  };
  const Row rows[] = {
      {"*", "0.0.0 1.2.3 99.0.0", "1.0.0-rc.1"},
      {"1.2.3", "1.2.3 1.2.3+build", "1.2.2 1.2.4 1.2.3-rc.1"},
      {"=1.2.3", "1.2.3", "1.2.4"},
      {"1.2", "1.2.0 1.2.99", "1.1.9 1.3.0 1.2.0-a 1.3.0-a"},
      {"1", "1.0.0 1.99.0", "0.9.9 2.0.0 2.0.0-a"},
      {"^1.2.3", "1.2.3 1.2.4 1.9.0", "1.2.2 2.0.0 2.0.0-alpha 1.3.0-rc.1 1.2.3-rc.1"},
      {"^1.2", "1.2.0 1.9.9", "1.1.9 2.0.0"},
      {"^1", "1.0.0 1.9.9", "0.9.0 2.0.0"},
      {"^0.1", "0.1.0 0.1.99", "0.0.9 0.2.0 1.0.0 0.2.0-a"},
      {"^0.2.3", "0.2.3 0.2.9", "0.2.2 0.3.0"},
      {"^0.0.3", "0.0.3", "0.0.2 0.0.4 0.1.0"},
      {"^0.0", "0.0.0 0.0.9", "0.1.0"},
      {"^0", "0.0.0 0.9.9", "1.0.0"},
      {"^0.0.0", "0.0.0", "0.0.1"},
      {"~1.2.3", "1.2.3 1.2.9", "1.2.2 1.3.0 1.3.0-a"},
      {"~1.2", "1.2.0 1.2.9", "1.3.0"},
      {"~1", "1.0.0 1.9.9", "2.0.0"},
      {"~0.2.3", "0.2.3 0.2.9", "0.3.0"},
      {">=1.2 <2", "1.2.0 1.9.9", "1.1.9 2.0.0 2.0.0-a"},
      {"  >=1.2   <2 ", "1.2.0", "2.0.0"},
      {">1.2", "1.3.0 2.0.0", "1.2.0 1.2.9 1.3.0-a"},
      {">1", "2.0.0", "1.9.9"},
      {">1.2.3", "1.2.4", "1.2.3"},
      {"<=1.2", "1.2.9 0.1.0", "1.3.0 1.3.0-a"},
      {"<=1.2.3", "1.2.3", "1.2.4 1.2.3-a"},
      {"<1.2", "1.1.9", "1.2.0 1.2.0-a"},
      {"<1.2.3", "1.2.2", "1.2.3 1.2.3-a"},
      {">=1.0.0-rc.1", "1.0.0-rc.1 1.0.0-rc.2 1.0.0 2.0.0", "1.0.0-beta 1.0.1-rc.1 2.0.0-rc.1"},
      {"^1.0.0-rc.1", "1.0.0-rc.2 1.0.0 1.5.0", "1.0.0-beta 1.5.0-rc.1 2.0.0-rc.1"},
      {"^2.0.0-a <=2.0.0-c", "2.0.0-b", "2.0.0-d 2.0.0"},
      {">=2 <1", "", "0.5.0 1.5.0 2.5.0"},
  };
  for (const auto& row : rows) {
    CAPTURE(row.range);
    const auto range = VersionRange::parse(row.range);
    CHECK(range.to_string() == row.range);
    for (const bool expected : {true, false}) {
      std::istringstream versions(expected ? row.inside : row.outside);
      for (std::string text; versions >> text;) {
        CAPTURE(text);
        CHECK(range.contains(SemVer::parse(text)) == expected);
      }
    }
  }
}

TEST_CASE("a range that is not understood is refused, naming the part") {
  const std::pair<const char*, const char*> rows[] = {
      {"", "''"},
      {"   ", "'   '"},
      {"^", "'^'"},
      {">=1.2 foo", "'foo' in the version range '>=1.2 foo'"},
      {">= 1.2", "'>='"},
      {"^^1.2", "'^^1.2'"},
      {"=>1.2", "'=>1.2'"},
      {"1.2.3.4", "'1.2.3.4'"},
      {"1.x", "'1.x'"},
      {"1.2-rc.1", "'1.2-rc.1'"},
      {"^01.2", "'^01.2'"},
      {"1.2 || 2", "'||'"},
      {"1.2,<3", "'1.2,<3'"},
      {"1.2\n", "'1.2\\n'"},
      {"^1.2 *x", "'*x'"},
  };
  for (const auto& [text, part] : rows) {
    CAPTURE(text);
    check_error(ErrorCode::kInvalidArgument, part, [&] { VersionRange::parse(text); });
  }
  check_error(ErrorCode::kInvalidArgument, "too long",
              [] { VersionRange::parse(std::string(1 << 20, ' ')); });
}

}  // namespace
}  // namespace outrider
