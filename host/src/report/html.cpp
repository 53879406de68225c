#include "report/html.h"

#include <fmt/format.h>

#include <algorithm>

#include "outrider/text.h"
#include "report/style.h"

namespace outrider::report {
namespace {

std::string cells(const std::vector<std::string>& texts, std::string_view tag) {
  std::string html = "<tr>";
  for (const auto& text : texts) html += fmt::format("<{0}>{1}</{0}>", tag, text);
  return html + "</tr>\n";
}

}  // namespace

std::string escaped(std::string_view text, size_t limit) {
  std::string html;
  for (const char c : printable(text, limit)) {
    switch (c) {
      case '&':
        html += "&amp;";
        break;
      case '<':
        html += "&lt;";
        break;
      case '>':
        html += "&gt;";
        break;
      case '"':
        html += "&quot;";
        break;
      case '\'':
        html += "&#39;";
        break;
      default:
        html += c;
    }
  }
  return html;
}

std::string preformatted(std::string_view text) {
  std::string html;
  for (size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find('\n', begin), text.size());
    html += escaped(text.substr(begin, end - begin)) + '\n';
    begin = end + 1;
  }
  return html;
}

std::string document_start(std::string_view title) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
      "style-src 'unsafe-inline'\">\n<title>{}</title>\n<style>{}</style>\n"
      "</head>\n<body>\n",
      escaped(title), kStyle);
}

std::string document_end() { return "</body>\n</html>\n"; }

std::string section(std::string_view title, const std::string& body) {
  return fmt::format("<section>\n<h2>{}</h2>\n{}</section>\n", escaped(title), body);
}

std::string definitions(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string html = "<dl>\n";
  for (const auto& [name, value] : items) {
    html += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", escaped(name), value);
  }
  return html + "</dl>\n";
}

std::string table(const std::vector<std::string>& headings,
                  const std::vector<std::vector<std::string>>& rows) {
  std::string html = "<div class=\"wide\"><table>\n" + cells(headings, "th");
  for (const auto& row : rows) html += cells(row, "td");
  return html + "</table></div>\n";
}

}  // namespace outrider::report
