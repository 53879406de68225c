#include <sys/stat.h>

#include <limits>

#include "outrider/files/json_file.h"
#include "support.h"

namespace outrider::json_file_tests {
namespace {

using test::check_error;
using test::Names;
using test::TemporaryFolder;

Json parse(std::string_view text) { return parse_json(text, "origin.json"); }

void check_refused(std::string_view text, std::string_view part) {
  CAPTURE(text);
  const auto message = check_error(ErrorCode::kInvalidFile, part, [&] { parse(text); });
  CHECK(message.starts_with("'origin.json', line "));
}

TEST_CASE("values keep their types and objects their nesting") {
  const char* text =
      R"({"a":[1,-1,1.0,true,false,null,"x",[],{}],"b":{"c":{"d":[[1],[2,{"e":3}]]}},"f":[[]]})";
  CHECK(parse(text).dump() == text);
  CHECK(parse("3").is_number_unsigned());
  CHECK(parse("-3").is_number_integer());
  CHECK(parse("3.0").is_number_float());
  CHECK(parse("18446744073709551615").get<uint64_t>() == 18446744073709551615u);
  CHECK(parse("\xef\xbb\xbf 1 \n") == 1);
  CHECK(parse(R"("\u0000\ud83d\ude00")") == std::string("\0😀", 5));
}

TEST_CASE("an integer beyond 64 bits becomes a float") {
  const Json large = parse("1000000000000000019884624838656");
  CHECK(large.is_number_float());
  CHECK(large.get<double>() == 1e30);
}

TEST_CASE("what is no JSON is refused") {
  check_refused("", "unexpected end of input");
  check_refused("  \n", "line 2: ");
  check_refused("{\"a\":1", "unexpected end of input");
  check_refused("[1,]", "unexpected ']'");
  check_refused("{\"a\" 1}", "expected ':'");
  check_refused("{a:1}", "invalid literal");
  check_refused("[1] x", "expected end of input");
  check_refused("[1][2]", "expected end of input");
  check_refused("// comment\n1", "invalid literal");
  check_refused("[01]", "unexpected number literal");
  check_refused("'a'", "invalid literal");
}

TEST_CASE("numbers that are no finite numbers are refused") {
  check_refused("[NaN]", "invalid literal");
  check_refused("[Infinity]", "invalid literal");
  check_refused("[-Infinity]", "invalid number");
  check_refused("[1e400]", "number overflow");
  check_refused("[-1e400]", "number overflow");
  check_refused("[" + std::string(400, '9') + "]", "number overflow");
}

TEST_CASE("invalid text is refused") {
  check_refused("\"\xff\"", "ill-formed UTF-8");
  check_refused("\"\xed\xa0\x80\"", "ill-formed UTF-8");
  check_refused("\"\\ud800\"", "surrogate");
  check_refused("\"a\nb\"", "control character");
  check_refused(std::string_view("{}\0{", 4), "a NUL byte");
  check_refused(std::string_view("{}\0", 3), "a NUL byte");
}

TEST_CASE("a key that occurs twice in one object is refused") {
  check_refused("{\"a\":1,\"a\":2}", "line 1: the key 'a' occurs twice");
  check_refused("[{}, {\"b\": {\n\"k\": 1,\n\"k\": 1}}]", "line 3: the key 'k' occurs twice");
  check_refused("{\"a\":1,\"\\u0061\":2}", "the key 'a' occurs twice");
  check_refused("{\"\":1,\"\":2}", "the key '' occurs twice");
  CHECK(parse(R"([{"a":1},{"a":{"a":2}}])").size() == 2);
}

TEST_CASE("messages name the line and escape what they show") {
  check_refused("{\n  \"a\": 1,\n  \"b\": oops\n}", "line 3: ");
  check_refused("{\"\\u001b[2J\":1,\"\\u001b[2J\":2}", "the key '\\x1b[2J' occurs twice");
  const auto message = check_error(ErrorCode::kInvalidFile, "line 1",
                                   [] { parse("\"" + std::string(100'000, 'x')); });
  CHECK(message.size() < 1000);
}

TEST_CASE("depth is limited without recursion") {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  CHECK(parse(nested(64)).size() == 1);
  check_refused(nested(65), "nested deeper than the 64 levels");
  check_refused(std::string(1 << 20, '['), "nested deeper");
  CHECK(parse_json("[{}]", "x", {.depth = 2}).size() == 1);
  check_error(ErrorCode::kInvalidFile, "the 2 levels",
              [] { parse_json("{\"a\":[[]]}", "x", {.depth = 2}); });
  CHECK(parse_json("1", "x", {.depth = 0}) == 1);
}

TEST_CASE("size is limited") {
  CHECK(parse_json("[1] ", "x", {.bytes = 4}).size() == 1);
  check_error(ErrorCode::kInvalidFile, "'x' is larger than the 4 bytes",
              [] { parse_json("[1]  ", "x", {.bytes = 4}); });
}

TEST_CASE("a megabyte of keys is parsed") {
  std::string text = "{";
  int count = 0;
  for (; text.size() < (1u << 20); ++count) text += "\"k" + std::to_string(count) + "\":0,";
  text.back() = '}';
  CHECK(parse(text).size() == static_cast<size_t>(count));
}

TEST_CASE("files are written indented and read back") {
  const TemporaryFolder folder;
  const auto path = folder / "a.json";
  const Json value = {{"float", 32.0}, {"int", 32}, {"text", "größe"}, {"list", {1, 2}}};
  write_json_file(path, value);
  CHECK(test::get(path) ==
        "{\n  \"float\": 32.0,\n  \"int\": 32,\n  \"list\": [\n    1,\n    2\n  ],\n"
        "  \"text\": \"größe\"\n}\n");
  CHECK(read_json_file(path) == value);
  CHECK(folder.names() == Names{"a.json"});
}

TEST_CASE("text that is not UTF-8 is not written") {
  const TemporaryFolder folder;
  check_error(ErrorCode::kInvalidArgument, "not UTF-8", [&] {
    write_json_file(folder / "a.json", {{"k", "\xff"}});
  });
  CHECK(folder.names().empty());
}

TEST_CASE("files that cannot be read are told apart") {
  const TemporaryFolder folder;
  check_error(ErrorCode::kFileNotFound, "/none.json' does not exist",
              [&] { read_json_file(folder / "none.json"); });
  check_error(ErrorCode::kFileUnreadable, "is not a regular file",
              [&] { read_json_file(folder.path()); });
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  check_error(ErrorCode::kFileUnreadable, "/pipe' is not a regular file",
              [&] { read_json_file(folder / "pipe"); });
  test::put(folder / "large.json", "[1, 2, 3]");
  check_error(ErrorCode::kInvalidFile, "/large.json' is larger than the 8 bytes",
              [&] { read_json_file(folder / "large.json", {.bytes = 8}); });
  test::put(folder / "bad.json", "{\n]");
  check_error(ErrorCode::kInvalidFile,
              "/bad.json', line 2: ", [&] { read_json_file(folder / "bad.json"); });
}

}  // namespace
}  // namespace outrider::json_file_tests
