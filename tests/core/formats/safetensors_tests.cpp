#include <cstdint>
#include <cstring>

#include "outrider/checkpoint/safetensors.h"
#include "outrider/files/json_file.h"
#include "support.h"

namespace outrider {
namespace {

using test::check_error;
using test::get;
using test::Names;
using test::put;
using test::TemporaryFolder;

std::string with_length(uint64_t length, std::string_view rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes.append(rest);
}

std::string file_of(std::string_view header, size_t data_bytes) {
  return with_length(header.size(), header) + std::string(data_bytes, 'd');
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string text_of(const TensorView& view) {
  return {reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size()};
}

/// One file at a time, opened under the same name.
class Files {
 public:
  std::shared_ptr<const SafetensorsFile> open(std::string_view bytes) {
    put(path(), bytes);
    return SafetensorsFile::open(path());
  }
  void check_refused(std::string_view bytes, std::string_view part) {
    const auto message = check_error(ErrorCode::kInvalidFile, part, [&] { open(bytes); });
    CHECK(message.find("/t.safetensors") != message.npos);
  }
  std::filesystem::path path() const { return folder_ / "t.safetensors"; }

 private:
  TemporaryFolder folder_;
};

TEST_CASE("dtypes have the sizes of the format's description") {
  for (const char* one : {"BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"}) CHECK(dtype_size(one) == 1);
  for (const char* two : {"I16", "U16", "F16", "BF16"}) CHECK(dtype_size(two) == 2);
  for (const char* four : {"I32", "U32", "F32"}) CHECK(dtype_size(four) == 4);
  for (const char* eight : {"F64", "I64", "U64"}) CHECK(dtype_size(eight) == 8);
  for (const char* none : {"", "f32", "F", "F4", "C64"}) CHECK(dtype_size(none) == 0);
}

TEST_CASE("a file of another writer is read") {
  Files files;
  const auto file = files.open(file_of(
      R"({"b":{"dtype":"F16","shape":[2,1],"data_offsets":[1,5]},"a":{"shape":[],"extra":0,)"
      R"("data_offsets":[0,1],"dtype":"BOOL"},"__metadata__":{"format":"pt","x":"größe"}} )",
      5));
  CHECK(file->path() == files.path());
  CHECK(file->metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"x", "größe"}});
  REQUIRE(file->tensors().size() == 2);
  const auto& a = file->tensors().at("a");
  CHECK(a.dtype == "BOOL");
  CHECK(a.shape.empty());
  CHECK(text_of(a) == "d");
  const auto& b = file->tensors().at("b");
  CHECK(b.dtype == "F16");
  CHECK(b.shape == std::vector<int64_t>{2, 1});
  CHECK(b.bytes.data() == a.bytes.data() + 1);
  CHECK(b.bytes.size() == 4);
}

TEST_CASE("a file may hold no tensor at all") {
  Files files;
  CHECK(files.open(file_of("{}", 0))->tensors().empty());
  CHECK(files.open(file_of(R"({"__metadata__":{}})", 0))->metadata().empty());
}

TEST_CASE("tensors without elements may lie between others") {
  Files files;
  const auto file = files.open(file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                       R"("b":{"dtype":"F32","shape":[3,0],"data_offsets":[4,4]},)"
                                       R"("c":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                                       R"("d":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},)"
                                       R"("e":{"dtype":"I64","shape":[0],"data_offsets":[6,6]}})",
                                       6));
  CHECK(file->tensors().size() == 5);
  CHECK(file->tensors().at("b").bytes.empty());
  CHECK(file->tensors().at("b").shape == std::vector<int64_t>{3, 0});
}

TEST_CASE("a file cut at any byte is refused") {
  Files files;
  const std::string whole = file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                    R"("b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}})",
                                    11);
  CHECK(files.open(whole)->tensors().size() == 2);
  for (size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    files.check_refused(whole.substr(0, size), size == 0                  ? "is empty"
                                               : size < 8                 ? "too short"
                                               : size < whole.size() - 11 ? "only"
                                                                          : "outside of the");
  }
  files.check_refused(whole + "x", "1 bytes follow the last tensor");
}

TEST_CASE("header lengths that cannot be are refused") {
  Files files;
  files.check_refused(with_length(UINT64_MAX, "{}"), "claims 18446744073709551615 bytes");
  files.check_refused(with_length(100'000'001, "{}"), "at most 100000000 are accepted");
  files.check_refused(with_length(100'000'000, "{}"), "only 2 follow");
  files.check_refused(with_length(3, "{}"), "only 2 follow");
  files.check_refused(with_length(0, ""), "does not begin with '{'");
  files.check_refused(with_length(1, "{}"), "(header)");
}

TEST_CASE("headers that are no such JSON are refused") {
  Files files;
  files.check_refused(file_of(" {}", 0), "does not begin with '{'");
  files.check_refused(file_of("[]", 0), "does not begin with '{'");
  files.check_refused(file_of("{} x", 0), "expected end of input");
  files.check_refused(file_of(std::string_view("{}\0", 3), 0), "NUL byte");
  files.check_refused(file_of("{\"\xff\":1}", 0), "ill-formed UTF-8");
  files.check_refused(file_of("{\"a\":" + std::string(1'000'000, '['), 0), "nested deeper");
  files.check_refused(file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                              R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                              2),
                      "the key 'a' occurs twice");
  files.check_refused(file_of(R"({"__metadata__":[]})", 0), "__metadata__ is not an object");
  files.check_refused(file_of(R"({"__metadata__":{"k":1}})", 0), "no string for 'k'");
}

TEST_CASE("tensors that are not described as they must be are refused") {
  const std::pair<const char*, const char*> rows[] = {
      {R"(1)", "tensor 'a\\n' is not described by an object"},
      {R"({"shape":[1],"data_offsets":[0,1]})", "has no dtype"},
      {R"({"dtype":"U8","data_offsets":[0,1]})", "has no shape"},
      {R"({"dtype":"U8","shape":[1]})", "has no data_offsets"},
      {R"({"dtype":8,"shape":[1],"data_offsets":[0,1]})", "dtype that is not a string"},
      {R"({"dtype":"F7","shape":[1],"data_offsets":[0,1]})", "the dtype 'F7'; known are BOOL, U8"},
      {R"({"dtype":"U8","shape":1,"data_offsets":[0,1]})", "shape that is not a list"},
      {R"({"dtype":"U8","shape":[-1],"data_offsets":[0,1]})", "a shape with -1"},
      {R"({"dtype":"U8","shape":[1.0],"data_offsets":[0,1]})", "a shape with 1.0"},
      {R"({"dtype":"U8","shape":["1"],"data_offsets":[0,1]})", "a shape with \"1\""},
      {R"({"dtype":"U8","shape":[null],"data_offsets":[0,1]})", "a shape with null"},
      {R"({"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]})", "a shape with 922"},
      {R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]})",
       "impossible shape"},
      {R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]})", "impossible shape"},
      {R"({"dtype":"F64","shape":[1152921504606846976],"data_offsets":[0,0]})", "impossible shape"},
      {R"({"dtype":"U8","shape":[0,9223372036854775807,2],"data_offsets":[0,0]})",
       "impossible shape [0, 9223372036854775807, 2]"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":[0]})", "not two integers"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":[0,1,2]})", "not two integers"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":[-1,0]})", "not two integers"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":[0.0,1]})", "not two integers"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":[0,1e9]})", "not two integers"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":{"a":0,"b":1}})", "not two integers"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":[1,0]})", "lies at data bytes 1 to 0"},
      {R"({"dtype":"U8","shape":[2],"data_offsets":[0,2]})",
       "outside of the 1 that the file holds"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,18446744073709551615]})",
       "outside of the 1"},
      {R"({"dtype":"U8","shape":[2],"data_offsets":[0,1]})", "takes 1 bytes, but U8 of shape [2]"},
      {R"({"dtype":"F32","shape":[],"data_offsets":[0,1]})", "but F32 of shape [] needs 4"},
      {R"({"dtype":"U8","shape":[0],"data_offsets":[0,1]})", "of shape [0] needs 0"},
      {R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})", "1 bytes follow the last tensor"},
      {R"({"dtype":"U8","shape":[0],"data_offsets":[1,1]})", "begins at data byte 1"},
  };
  Files files;
  for (const auto& [tensor, part] : rows) {
    CAPTURE(tensor);
    files.check_refused(file_of(R"({"a\n":)" + std::string(tensor) + "}", 1), part);
  }
  std::string shape = "1";
  for (int i = 0; i < 64; ++i) shape += ",1";
  files.check_refused(
      file_of(R"({"a":{"dtype":"U8","data_offsets":[0,1],"shape":[)" + shape + "]}}", 1),
      "at most 64 sizes");
}

TEST_CASE("ranges with holes or overlaps are refused") {
  const auto two = [](const std::string& a, const std::string& b) {
    return R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + a +
           R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + b + "}}";
  };
  Files files;
  CHECK(files.open(file_of(two("[2,4]", "[0,2]"), 4))->tensors().size() == 2);
  files.check_refused(file_of(two("[0,2]", "[1,3]"), 3),
                      "tensor 'b' begins at data byte 1, but the tensors before it end at 2: an "
                      "overlap");
  files.check_refused(file_of(two("[0,2]", "[0,2]"), 2), "an overlap");
  files.check_refused(file_of(two("[0,2]", "[3,5]"), 5), "tensor 'b' begins at data byte 3");
  files.check_refused(file_of(two("[1,3]", "[3,5]"), 5),
                      "tensor 'a' begins at data byte 1, but "
                      "the tensors before it end at 0: a hole");
  files.check_refused(file_of(two("[0,2]", "[2,4]"), 9), "5 bytes follow the last tensor");
}

TEST_CASE("files that are no files are told apart") {
  const TemporaryFolder folder;
  check_error(ErrorCode::kFileNotFound, "/none' does not exist",
              [&] { SafetensorsFile::open(folder / "none"); });
  check_error(ErrorCode::kFileUnreadable, "is not a regular file",
              [&] { SafetensorsFile::open(folder.path()); });
  check_error(ErrorCode::kFileUnreadable, "'/dev/zero' is not a regular file",
              [] { SafetensorsFile::open("/dev/zero"); });
}

const std::string kFloats(12, 'f'), kWords(4, 'w'), kLongs(16, 'l'), kFlags(3, 'b');

std::map<std::string, TensorView> mixed_tensors() {
  return {{"a.flags", {"BOOL", {3}, bytes_of(kFlags)}},
          {"b.floats", {"F32", {3, 1}, bytes_of(kFloats)}},
          {"c.scalar", {"F32", {}, bytes_of(kWords)}},
          {"d.longs", {"I64", {2}, bytes_of(kLongs)}},
          {"e.halves", {"BF16", {2, 1, 1}, bytes_of(kWords)}},
          {"f.empty", {"F64", {0, 7}, {}}}};
}

TEST_CASE("what is written is read back") {
  const TemporaryFolder folder;
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"k", "\"\n"}};
  write_safetensors(folder / "a", mixed_tensors(), metadata);
  const auto file = SafetensorsFile::open(folder / "a");
  CHECK(file->metadata() == metadata);
  REQUIRE(file->tensors().size() == 6);
  for (const auto& [name, view] : mixed_tensors()) {
    CAPTURE(name);
    const auto& read = file->tensors().at(name);
    CHECK(read.dtype == view.dtype);
    CHECK(read.shape == view.shape);
    CHECK(text_of(read) == text_of(view));
    CHECK(reinterpret_cast<uintptr_t>(read.bytes.data()) % dtype_size(read.dtype) == 0);
  }
  CHECK(folder.names() == Names{"a"});
}

TEST_CASE("the bytes of a file are determined by its tensors") {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", mixed_tensors());
  const std::string bytes = get(folder / "a");
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  CHECK(length % 8 == 0);
  const Json header = parse_json(std::string_view(bytes).substr(8, length), "header");
  CHECK(header["d.longs"].dump() == R"({"data_offsets":[0,16],"dtype":"I64","shape":[2]})");
  CHECK(header["f.empty"]["data_offsets"] == Json::array({16, 16}));
  CHECK(header["b.floats"]["data_offsets"] == Json::array({16, 28}));
  CHECK(header["c.scalar"]["data_offsets"] == Json::array({28, 32}));
  CHECK(header["e.halves"]["data_offsets"] == Json::array({32, 36}));
  CHECK(header["a.flags"]["data_offsets"] == Json::array({36, 39}));
  CHECK_FALSE(header.contains("__metadata__"));
  CHECK(bytes.substr(8 + length) == kLongs + kFloats + kWords + kWords + kFlags);
}

TEST_CASE("a file without tensors is written") {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {});
  CHECK(get(folder / "a") == with_length(8, "{}      "));
  CHECK(SafetensorsFile::open(folder / "a")->tensors().empty());
}

TEST_CASE("views that contradict themselves are not written") {
  const std::pair<std::map<std::string, TensorView>, const char*> rows[] = {
      {{{"a", {"F7", {1}, {}}}}, "tensor 'a' has the dtype 'F7'"},
      {{{"a", {"F32", {2}, bytes_of(kWords)}}}, "has 4 bytes, but F32 of shape [2] needs 8"},
      {{{"a", {"U8", {-4}, bytes_of(kWords)}}}, "impossible shape [-4]"},
      {{{"a", {"U8", std::vector<int64_t>(65, 1), {}}}}, "more than 64 dimensions"},
      {{{"__metadata__", {"U8", {4}, bytes_of(kWords)}}}, "a reserved name"},
      {{{"\xff", {"U8", {4}, bytes_of(kWords)}}}, "not UTF-8"},
  };
  const TemporaryFolder folder;
  for (const auto& [tensors, part] : rows) {
    check_error(ErrorCode::kInvalidArgument, part,
                [&] { write_safetensors(folder / "a", tensors); });
  }
  check_error(ErrorCode::kWriteFailed, "No such file or directory",
              [&] { write_safetensors(folder / "none" / "a", mixed_tensors()); });
  CHECK(folder.names().empty());
}

}  // namespace
}  // namespace outrider
