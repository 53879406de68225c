#include <doctest/doctest.h>

#include "outrider/text.h"

namespace outrider {
namespace {

using Names = std::vector<std::string>;

TEST_CASE("nearest names are ordered by distance, then by name") {
  CHECK(nearest_names("eagel", {"medusa", "eagle", "beagle"}) == Names{"eagle", "beagle"});
  CHECK(nearest_names("cat", {"cut", "bat", "cat"}) == Names{"cat", "bat", "cut"});
  CHECK(nearest_names("abcd", {"abcz", "abcy", "abcx", "abcw"}) == Names{"abcw", "abcx", "abcy"});
}

TEST_CASE("nearest names ignore case and count a swap of neighbours once") {
  CHECK(nearest_names("EAGLE", {"eagle"}) == Names{"eagle"});
  // Four plain edits, two swaps; the limit is two.
  CHECK(nearest_names("badc", {"abcd"}) == Names{"abcd"});
}

TEST_CASE("the limit of nearest names is two, or a third of the length") {
  CHECK(nearest_names("abcdef", {"abxyz"}).empty());
  CHECK(nearest_names("abcdef", {"abcdxy"}) == Names{"abcdxy"});
  CHECK(nearest_names("abcdefghi", {"abcdefxyz"}) == Names{"abcdefxyz"});
  CHECK(nearest_names("abcdefgh", {"abcdexyz"}).empty());
  CHECK(nearest_names("x", {}).empty());
  CHECK(nearest_names("?", {"hf"}).empty());
  CHECK(nearest_names("ab", {"xyab"}).empty());
}

TEST_CASE("nearest names do not compare names of absurd length") {
  CHECK(nearest_names(std::string(1 << 20, 'a'), {std::string(1 << 20, 'a')}).empty());
}

TEST_CASE("suggestions name the nearest, else what is known, else nothing") {
  CHECK(suggestion("eagel", {"eagle", "medusa"}) == "did you mean 'eagle'?");
  CHECK(suggestion("cat", {"bat", "cut"}) == "did you mean 'bat' or 'cut'?");
  CHECK(suggestion("cat", {"bat", "cut", "rat"}) == "did you mean 'bat', 'cut' or 'rat'?");
  CHECK(suggestion("quantize", {"eagle", "medusa"}) == "known are: eagle, medusa");
  CHECK(suggestion("x", {}).empty());
  CHECK(suggestion("a", {"long\nname"}) == "known are: long\\nname");
}

TEST_CASE("suggestions list at most twenty names") {
  Names known;
  for (int i = 0; i < 23; ++i) known.push_back("number_" + std::to_string(10 + i));
  const auto text = suggestion("z", known);
  CHECK(text.starts_with("known are: number_10, number_11, "));
  CHECK(text.ends_with(", number_29 and 3 more"));
}

TEST_CASE("printable escapes what a terminal would act on") {
  CHECK(printable("plain 'text' \\n") == "plain 'text' \\n");
  CHECK(printable("a\nb\tc\r") == "a\\nb\\tc\\x0d");
  CHECK(printable("\x1b[31m\x7f") == "\\x1b[31m\\x7f");
  CHECK(printable(std::string_view("\0x", 2)) == "\\x00x");
  CHECK(printable("\u0085\u202e\ufeff\U000e0041") == "\\u0085\\u202e\\ufeff\\U000e0041");
  CHECK(printable("größe 模型 😀") == "größe 模型 😀");
}

TEST_CASE("printable escapes bytes that are not UTF-8") {
  CHECK(printable("\x80") == "\\x80");
  CHECK(printable("\xc0\xaf") == "\\xc0\\xaf");                    // overlong
  CHECK(printable("\xe0\x80\xaf") == "\\xe0\\x80\\xaf");           // overlong
  CHECK(printable("\xed\xa0\x80") == "\\xed\\xa0\\x80");           // surrogate
  CHECK(printable("\xf4\x90\x80\x80") == "\\xf4\\x90\\x80\\x80");  // beyond Unicode
  CHECK(printable("\xe6\xa8") == "\\xe6\\xa8");                    // cut short
  CHECK(printable("\xff"
                  "a") == "\\xffa");
}

TEST_CASE("printable cuts between characters") {
  CHECK(printable("abcdef", 6) == "abcdef");
  CHECK(printable("abcdef", 5) == "abcde…");
  CHECK(printable("模型模型", 3) == "模型模…");
  CHECK(printable("ab\x01", 5) == "ab…");
  CHECK(printable(std::string(1000, 'x')) == std::string(200, 'x') + "…");
}

TEST_CASE("in_quotes quotes and escapes") { CHECK(in_quotes("a\n") == "'a\\n'"); }

TEST_CASE("indented puts one line under another, up to a limit") {
  CHECK(indented({}) == "");
  CHECK(indented({"a", "b"}) == "\n  a\n  b");
  CHECK(indented({"a", "b", "c"}, 1) == "\n  a\n  and 2 more");
}

TEST_CASE("join puts the separator between items only") {
  CHECK(join({}, ", ") == "");
  CHECK(join({"a"}, ", ") == "a");
  CHECK(join({"a", "", "c"}, "-") == "a--c");
}

}  // namespace
}  // namespace outrider
