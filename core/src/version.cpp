#include "outrider/version.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <optional>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

constexpr size_t kLongestText = 256;
// Nine digits fit an int and leave room to add one.
constexpr size_t kMostDigits = 9;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_identifier_character(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-';
}

bool is_numeric(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_digit);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t end; (end = text.find(separator)) != text.npos; text.remove_prefix(end + 1)) {
    parts.push_back(text.substr(0, end));
  }
  parts.push_back(text);
  return parts;
}

/// Cuts `text` before the first `separator`; returns what followed it, or nothing.
std::optional<std::string_view> cut(std::string_view& text, char separator) {
  const size_t at = text.find(separator);
  if (at == text.npos) return std::nullopt;
  const auto rest = text.substr(at + 1);
  text = text.substr(0, at);
  return rest;
}

std::optional<int> parse_number(std::string_view text) {
  if (!is_numeric(text) || text.size() > kMostDigits) return std::nullopt;
  if (text.size() > 1 && text[0] == '0') return std::nullopt;
  int value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

bool are_identifiers(std::string_view text, bool leading_zeros_allowed) {
  const auto parts = split(text, '.');
  return std::all_of(parts.begin(), parts.end(), [&](std::string_view part) {
    if (part.empty() || !std::all_of(part.begin(), part.end(), is_identifier_character)) {
      return false;
    }
    return leading_zeros_allowed || !is_numeric(part) || part.size() == 1 || part[0] != '0';
  });
}

/// One to three numbers; a missing one is 0. `given` tells how many there were.
struct PartialVersion {
  SemVer version;
  int given = 0;
};

std::optional<PartialVersion> parse_partial(std::string_view text) {
  PartialVersion result;
  if (const auto build = cut(text, '+'); build && !are_identifiers(*build, true)) {
    return std::nullopt;
  }
  const auto prerelease = cut(text, '-');
  if (prerelease && !are_identifiers(*prerelease, false)) return std::nullopt;
  result.version.prerelease = prerelease.value_or("");
  int* const numbers[] = {&result.version.major, &result.version.minor, &result.version.patch};
  const auto parts = split(text, '.');
  if (parts.size() > std::size(numbers) || (prerelease && parts.size() < 3)) return std::nullopt;
  for (const auto part : parts) {
    const auto number = parse_number(part);
    if (!number) return std::nullopt;
    *numbers[result.given++] = *number;
  }
  return result;
}

/// Below every prerelease of MAJOR.MINOR.PATCH.
SemVer start_of(int major, int minor, int patch) { return {major, minor, patch, "0"}; }

/// The first version after all that begin with the same `parts` numbers.
SemVer after(const SemVer& version, int parts) {
  if (parts == 1) return start_of(version.major + 1, 0, 0);
  if (parts == 2) return start_of(version.major, version.minor + 1, 0);
  return start_of(version.major, version.minor, version.patch + 1);
}

/// How many leading numbers a caret fixes: those up to the first that is not zero.
int caret_parts(const SemVer& version, int given) {
  if (version.major > 0) return 1;
  return version.minor > 0 ? std::min(2, given) : given;
}

SemVer without_prerelease(const SemVer& version) {
  return {version.major, version.minor, version.patch, ""};
}

bool is_operator(std::string_view text) {
  constexpr std::string_view kOperators[] = {"", "=", "^", "~", "<", "<=", ">", ">="};
  return std::find(std::begin(kOperators), std::end(kOperators), text) != std::end(kOperators);
}

Error not_understood(std::string_view range, std::string_view part) {
  return Error(ErrorCode::kInvalidArgument,
               fmt::format("{} in the version range {} is not understood; accepted are ^1.2, "
                           "~1.2.3, 1.2.3, comparators such as >=1.2 <2 separated by spaces, "
                           "and *",
                           in_quotes(part), in_quotes(range)));
}

std::strong_ordering compare_identifiers(std::string_view a, std::string_view b) {
  const bool a_numeric = is_numeric(a), b_numeric = is_numeric(b);
  if (a_numeric != b_numeric) return b_numeric <=> a_numeric;
  // Numbers have no leading zeros, so the longer one is the larger.
  if (a_numeric && a.size() != b.size()) return a.size() <=> b.size();
  return a <=> b;
}

std::strong_ordering compare_prereleases(std::string_view a, std::string_view b) {
  if (a.empty() || b.empty()) return a.empty() <=> b.empty();
  const auto left = split(a, '.'), right = split(b, '.');
  return std::lexicographical_compare_three_way(left.begin(), left.end(), right.begin(),
                                                right.end(), compare_identifiers);
}

void check_length(std::string_view text, std::string_view what) {
  if (text.size() > kLongestText) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is too long for a {}: {} characters, at most {} are accepted",
                            in_quotes(text, 40), what, text.size(), kLongestText));
  }
}

}  // namespace

std::string_view version() { return OUTRIDER_VERSION; }

SemVer SemVer::parse(std::string_view text) {
  check_length(text, "version");
  const auto partial = parse_partial(text);
  if (!partial || partial->given != 3) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is not a semantic version; accepted are MAJOR.MINOR.PATCH and "
                            "MAJOR.MINOR.PATCH-PRERELEASE, such as 1.2.3 or 2.0.0-rc.1",
                            in_quotes(text)));
  }
  return partial->version;
}

std::string SemVer::to_string() const {
  return fmt::format("{}.{}.{}{}{}", major, minor, patch, prerelease.empty() ? "" : "-",
                     prerelease);
}

std::strong_ordering SemVer::operator<=>(const SemVer& other) const {
  if (const auto order = major <=> other.major; order != 0) return order;
  if (const auto order = minor <=> other.minor; order != 0) return order;
  if (const auto order = patch <=> other.patch; order != 0) return order;
  return compare_prereleases(prerelease, other.prerelease);
}

void VersionRange::add_comparator(std::string_view op, const SemVer& version, int given) {
  const bool whole = given == 3;
  const auto add = [this](Op bound, const SemVer& of) { bounds_.push_back({bound, of}); };
  const auto add_span = [&](int parts) {
    add(Op::kGreaterEqual, version);
    add(Op::kLess, after(version, parts));
  };
  if (op == "^") {
    add_span(caret_parts(version, given));
  } else if (op == "~") {
    add_span(std::min(2, given));
  } else if (op == "=" || op.empty()) {
    whole ? add(Op::kEqual, version) : add_span(given);
  } else if (op == ">=") {
    add(Op::kGreaterEqual, version);
  } else if (op == ">") {
    whole ? add(Op::kGreater, version)
          : add(Op::kGreaterEqual, without_prerelease(after(version, given)));
  } else if (op == "<=") {
    whole ? add(Op::kLessEqual, version) : add(Op::kLess, after(version, given));
  } else {
    add(Op::kLess, whole ? version : start_of(version.major, version.minor, version.patch));
  }
}

VersionRange VersionRange::parse(std::string_view text) {
  check_length(text, "version range");
  VersionRange range;
  range.text_ = text;
  size_t comparators = 0;
  for (const auto part : split(text, ' ')) {
    if (part.empty()) continue;
    ++comparators;
    if (part == "*") continue;
    const auto op = part.substr(0, std::min(part.find_first_not_of("^~=<>"), part.size()));
    const auto partial = parse_partial(part.substr(op.size()));
    if (!partial || !is_operator(op)) throw not_understood(text, part);
    range.add_comparator(op, partial->version, partial->given);
  }
  if (comparators == 0) throw not_understood(text, text);
  return range;
}

bool VersionRange::contains(const SemVer& version) const {
  const auto holds = [&version](const Bound& bound) {
    const auto order = version <=> bound.version;
    switch (bound.op) {
      case Op::kLess:
        return order < 0;
      case Op::kLessEqual:
        return order <= 0;
      case Op::kGreater:
        return order > 0;
      case Op::kGreaterEqual:
        return order >= 0;
      case Op::kEqual:
        break;
    }
    return order == 0;
  };
  const auto allows_prerelease = [&version](const Bound& bound) {
    return !bound.version.prerelease.empty() &&
           without_prerelease(bound.version) == without_prerelease(version);
  };
  return std::all_of(bounds_.begin(), bounds_.end(), holds) &&
         (version.prerelease.empty() ||
          std::any_of(bounds_.begin(), bounds_.end(), allows_prerelease));
}

}  // namespace outrider
