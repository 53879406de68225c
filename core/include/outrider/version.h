#pragma once

#include <compare>
#include <string>
#include <string_view>
#include <vector>

#include "outrider/api.h"

namespace outrider {

/// The version of this build, "0.1.0".
OUTRIDER_API std::string_view version();

/// Semantic version 2.0.0; build metadata is accepted and dropped.
struct OUTRIDER_API SemVer {
  int major = 0, minor = 0, patch = 0;
  std::string prerelease;

  /// Throws kInvalidArgument for anything but MAJOR.MINOR.PATCH[-prerelease][+build].
  static SemVer parse(std::string_view text);
  std::string to_string() const;

  bool operator==(const SemVer&) const = default;
  /// Precedence as semver.org section 11 defines it.
  std::strong_ordering operator<=>(const SemVer& other) const;
};

/// A set of versions: "^1.2", "~1.2.3", "1.2.3" (exactly), ">=1.2 <2", "*".
/// A prerelease satisfies a range only if a bound of the range is a prerelease of the same
/// MAJOR.MINOR.PATCH.
class OUTRIDER_API VersionRange {
 public:
  /// Throws kInvalidArgument, naming the part that is not understood.
  static VersionRange parse(std::string_view text);

  bool contains(const SemVer& version) const;
  const std::string& to_string() const { return text_; }

 private:
  enum class Op { kLess, kLessEqual, kGreater, kGreaterEqual, kEqual };
  struct Bound {
    Op op;
    SemVer version;
  };

  /// The bounds that one comparator stands for; `given` of the version's three numbers were
  /// written.
  void add_comparator(std::string_view op, const SemVer& version, int given);

  std::string text_;
  std::vector<Bound> bounds_;
};

}  // namespace outrider
