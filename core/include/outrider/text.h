#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "outrider/api.h"

namespace outrider {

/// At most three of `known` that `name` may be a misspelling of, nearest first
/// (optimal string alignment distance ≤ max(2, length/3), ignoring case).
OUTRIDER_API std::vector<std::string> nearest_names(std::string_view name,
                                                    const std::vector<std::string>& known);

/// "did you mean 'a' or 'b'?" for the nearest names, else "known are: …" (at most 20), else "".
OUTRIDER_API std::string suggestion(std::string_view name, const std::vector<std::string>& known);

/// Whether all of `text` is well-formed UTF-8.
OUTRIDER_API bool is_utf8(std::string_view text);

/// `text` with control characters and invalid bytes escaped and cut at `limit` characters, so that
/// a file's content can neither move the cursor nor flood the terminal.
OUTRIDER_API std::string printable(std::string_view text, size_t limit = 200);

/// `text` in single quotes, printable: how messages name files, tensors and keys.
OUTRIDER_API std::string in_quotes(std::string_view text, size_t limit = 1000);

/// A line break and two blanks before each of `lines`; beyond `limit` of them, how many more there
/// are.
OUTRIDER_API std::string indented(const std::vector<std::string>& lines, size_t limit = 20);

/// `items` joined by `separator`.
OUTRIDER_API std::string join(const std::vector<std::string>& items, std::string_view separator);

}  // namespace outrider
