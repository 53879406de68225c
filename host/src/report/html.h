#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "outrider/api.h"

namespace outrider::report {

/// Text as it may stand in HTML, in attributes too: markup characters, control characters and bytes
/// that are not UTF-8 are escaped, and it is cut at `limit` characters.
OUTRIDER_API std::string escaped(std::string_view text, size_t limit = 2000);

/// The same for text of several lines in a <pre>.
std::string preformatted(std::string_view text);

/// What stands before and behind the sections of a page: no script, nothing from elsewhere.
std::string document_start(std::string_view title);
std::string document_end();

/// A section under a heading; `body` is HTML.
std::string section(std::string_view title, const std::string& body);

/// A list of names and values; the values are HTML.
std::string definitions(const std::vector<std::pair<std::string, std::string>>& items);

/// A table that scrolls sideways where it is wider than the page; cells are HTML.
std::string table(const std::vector<std::string>& headings,
                  const std::vector<std::vector<std::string>>& rows);

}  // namespace outrider::report
