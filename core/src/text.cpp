#include "outrider/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace outrider {
namespace {

constexpr size_t kMostSuggestions = 3;
constexpr size_t kMostListed = 20;
// Bounds the quadratic distance; longer names are not compared.
constexpr size_t kLongestCompared = 256;

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

/// Optimal string alignment: insertions, deletions, substitutions, and swaps of neighbours.
size_t alignment_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last, last(b.size() + 1), current(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitution = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({last[j] + 1, current[j - 1] + 1, substitution});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        current[j] = std::min(current[j], before_last[j - 2] + 1);
      }
    }
    before_last = std::exchange(last, current);
  }
  return last[b.size()];
}

/// The bytes of the well-formed UTF-8 sequence that `text` begins with, or 0; its value in `code`.
size_t decode_utf8(std::string_view text, char32_t& code) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) {
    code = lead;
    return 1;
  }
  const size_t length = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  code = lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if ((byte & 0xC0) != 0x80) return 0;
    code = (code << 6) | (byte & 0x3F);
  }
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  return code < kSmallest[length] || code > 0x10FFFF || surrogate ? 0 : length;
}

/// Control characters, and invisible ones that reorder or hide text around them.
bool is_unprintable(char32_t code) {
  constexpr std::pair<char32_t, char32_t> kRanges[] = {
      {0x00, 0x1F},     {0x7F, 0x9F},     {0xAD, 0xAD},     {0x61C, 0x61C},   {0x200B, 0x200F},
      {0x2028, 0x202E}, {0x2060, 0x206F}, {0xFEFF, 0xFEFF}, {0xFFF9, 0xFFFB}, {0xE0000, 0xE0FFF}};
  return std::any_of(std::begin(kRanges), std::end(kRanges), [code](const auto& range) {
    return code >= range.first && code <= range.second;
  });
}

std::string escape(char32_t code) {
  const auto value = static_cast<uint32_t>(code);
  if (code == '\n') return "\\n";
  if (code == '\t') return "\\t";
  if (code < 0x80) return fmt::format("\\x{:02x}", value);
  return code < 0x10000 ? fmt::format("\\u{:04x}", value) : fmt::format("\\U{:08x}", value);
}

struct Piece {
  std::string text;
  size_t characters, bytes_read;
};

/// The first character of `text`, escaped where a terminal should not see it as it is.
Piece next_piece(std::string_view text) {
  char32_t code = 0;
  const size_t length = decode_utf8(text, code);
  if (length == 0) {
    return {fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0])), 4, 1};
  }
  if (!is_unprintable(code)) return {std::string(text.substr(0, length)), 1, length};
  std::string escaped = escape(code);
  const size_t characters = escaped.size();
  return {std::move(escaped), characters, length};
}

}  // namespace

std::vector<std::string> nearest_names(std::string_view name,
                                       const std::vector<std::string>& known) {
  const size_t limit = std::max<size_t>(2, name.size() / 3);
  const std::string wanted = lower_case(name);
  std::vector<std::pair<size_t, std::string>> found;
  for (const auto& candidate : known) {
    if (std::max(candidate.size(), name.size()) > kLongestCompared) continue;
    const size_t distance = alignment_distance(wanted, lower_case(candidate));
    // What shares no letter is not near, however short.
    if (distance <= limit &&
        (distance == 0 || distance < std::min(candidate.size(), name.size()))) {
      found.emplace_back(distance, candidate);
    }
  }
  std::sort(found.begin(), found.end());
  std::vector<std::string> names;
  for (size_t i = 0; i < std::min(found.size(), kMostSuggestions); ++i) {
    names.push_back(std::move(found[i].second));
  }
  return names;
}

std::string suggestion(std::string_view name, const std::vector<std::string>& known) {
  const auto nearest = nearest_names(name, known);
  if (!nearest.empty()) {
    std::vector<std::string> quoted;
    for (const auto& item : nearest) quoted.push_back(in_quotes(item));
    const std::string last = quoted.back();
    quoted.pop_back();
    return "did you mean " + join(quoted, ", ") + (quoted.empty() ? "" : " or ") + last + "?";
  }
  if (known.empty()) return "";
  std::vector<std::string> listed;
  for (size_t i = 0; i < std::min(known.size(), kMostListed); ++i) {
    listed.push_back(printable(known[i]));
  }
  const size_t rest = known.size() - listed.size();
  return "known are: " + join(listed, ", ") + (rest ? fmt::format(" and {} more", rest) : "");
}

bool is_utf8(std::string_view text) {
  char32_t ignored = 0;
  while (!text.empty()) {
    const size_t length = decode_utf8(text, ignored);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string printable(std::string_view text, size_t limit) {
  std::string result;
  for (size_t used = 0; !text.empty();) {
    const Piece piece = next_piece(text);
    used += piece.characters;
    if (used > limit) return result + "…";
    result += piece.text;
    text.remove_prefix(piece.bytes_read);
  }
  return result;
}

std::string in_quotes(std::string_view text, size_t limit) {
  return "'" + printable(text, limit) + "'";
}

std::string indented(const std::vector<std::string>& lines, size_t limit) {
  std::string result;
  for (size_t i = 0; i < std::min(lines.size(), limit); ++i) result += "\n  " + lines[i];
  if (lines.size() > limit) result += fmt::format("\n  and {} more", lines.size() - limit);
  return result;
}

std::string join(const std::vector<std::string>& items, std::string_view separator) {
  std::string result;
  for (const auto& item : items) {
    if (&item != &items.front()) result += separator;
    result += item;
  }
  return result;
}

}  // namespace outrider
