#include "outrider/checkpoint/safetensors.h"
#include "support.h"

namespace outrider::safetensors_folder_tests {
namespace {

namespace fs = std::filesystem;
using test::check_error;
using test::put;
using test::TemporaryFolder;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kFirst = "model-00001-of-00002.safetensors";
constexpr const char* kSecond = "model-00002-of-00002.safetensors";

void put_tensors(const fs::path& path, const std::vector<std::string>& names) {
  std::map<std::string, TensorView> tensors;
  for (const auto& name : names) {
    tensors[name] = {"U8", {static_cast<int64_t>(name.size())}, std::as_bytes(std::span(name))};
  }
  write_safetensors(path, tensors);
}

std::string index_of(const std::string& weight_map) {
  return R"({"metadata":{"total_size":6},"weight_map":)" + weight_map + "}";
}

/// Two shards, the first with a and b, the second with c, and an index that says so.
class ShardedFolder : public TemporaryFolder {
 public:
  ShardedFolder() {
    put_tensors(*this / kFirst, {"a", "b"});
    put_tensors(*this / kSecond, {"c"});
    put_index(R"({"a":")" + std::string(kFirst) + R"(","b":")" + kFirst + R"(","c":")" + kSecond +
              R"("})");
  }
  void put_index(const std::string& weight_map) { put(*this / kIndex, index_of(weight_map)); }
};

std::string text_of(const SafetensorsFolder::Entry& entry) {
  return {reinterpret_cast<const char*>(entry.view->bytes.data()), entry.view->bytes.size()};
}

TEST_CASE("a folder with one file gives its tensors") {
  const TemporaryFolder folder;
  put_tensors(folder / "model.safetensors", {"a", "b"});
  const auto opened = SafetensorsFolder::open(folder.path());
  REQUIRE(opened.tensors().size() == 2);
  CHECK(text_of(opened.tensors().at("b")) == "b");
}

TEST_CASE("a single file wins over an index") {
  ShardedFolder folder;
  put_tensors(folder / "model.safetensors", {"x"});
  CHECK(SafetensorsFolder::open(folder.path()).tensors().contains("x"));
}

TEST_CASE("shards give their tensors together") {
  const ShardedFolder folder;
  const auto opened = SafetensorsFolder::open(folder.path());
  REQUIRE(opened.tensors().size() == 3);
  CHECK(opened.tensors().at("a").file->path() == folder / kFirst);
  CHECK(opened.tensors().at("c").file->path() == folder / kSecond);
  CHECK(text_of(opened.tensors().at("c")) == "c");
}

TEST_CASE("a folder of links is read, as a hub cache is one") {
  const ShardedFolder blobs;
  const TemporaryFolder folder;
  for (const char* name : {kIndex, kFirst, kSecond}) {
    fs::create_symlink(blobs / name, folder / name);
  }
  CHECK(SafetensorsFolder::open(folder.path()).tensors().size() == 3);
}

TEST_CASE("a link without its target is named") {
  const TemporaryFolder folder;
  fs::create_symlink("../blobs/gone", folder / "model.safetensors");
  check_error(ErrorCode::kFileNotFound, "/model.safetensors' does not exist",
              [&] { SafetensorsFolder::open(folder.path()); });
}

TEST_CASE("an index may not point outside of its folder") {
  for (const char* shard : {"../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", "",
                            ".x.safetensors", "x.bin", "./x.safetensors", "x.safetensors/",
                            "../../\\u0000.safetensors", "x\\u0000.safetensors"}) {
    CAPTURE(shard);
    ShardedFolder folder;
    folder.put_index(R"({"a":")" + std::string(shard) + "\"}");
    check_error(ErrorCode::kInvalidFile, "tensor 'a' is placed in \"",
                [&] { SafetensorsFolder::open(folder.path()); });
  }
}

TEST_CASE("an index of another form is refused") {
  const std::pair<std::string, const char*> rows[] = {
      {"[]", "no weight_map object"},
      {"{}", "no weight_map object"},
      {index_of("[]"), "no weight_map object"},
      {index_of(R"({"a":1})"), "tensor 'a' is placed in 1"},
      {index_of(R"({"a":"x.safetensors","a":"y.safetensors"})"), "the key 'a' occurs twice"},
      {"{", "line 1"},
  };
  for (const auto& [text, part] : rows) {
    const TemporaryFolder folder;
    put(folder / kIndex, text);
    const auto message =
        check_error(ErrorCode::kInvalidFile, part, [&] { SafetensorsFolder::open(folder.path()); });
    CHECK(message.find(kIndex) != message.npos);
  }
}

TEST_CASE("a tensor is read from where it lies, whatever the index says") {
  ShardedFolder folder;
  folder.put_index(R"({"a":")" + std::string(kSecond) + R"(","b":")" + kFirst + R"("})");
  const auto opened = SafetensorsFolder::open(folder.path());
  REQUIRE(opened.tensors().size() == 3);
  CHECK(opened.tensors().at("a").file->path() == folder / kFirst);
  CHECK(text_of(opened.tensors().at("a")) == "a");
  CHECK(text_of(opened.tensors().at("c")) == "c");
  REQUIRE(opened.notes().size() == 2);
  CHECK(opened.notes()[0] ==
        std::string(kIndex) + " leaves out a tensor of its shards, read from where it lies: 'c'");
  CHECK(opened.notes()[1] ==
        std::string(kIndex) + " misplaces a tensor of its shards, read from where it lies: 'a'");
}

TEST_CASE("an index that fits its shards needs no word") {
  CHECK(SafetensorsFolder::open(ShardedFolder().path()).notes().empty());
}

TEST_CASE("of a tensor in two shards the index decides which is meant") {
  ShardedFolder folder;
  put_tensors(folder / kSecond, {"a", "c"});
  const auto opened = SafetensorsFolder::open(folder.path());
  CHECK(opened.tensors().at("a").file->path() == folder / kFirst);
  folder.put_index(R"({"b":")" + std::string(kFirst) + R"(","c":")" + kSecond + R"("})");
  check_error(
      ErrorCode::kInvalidFile,
      "'a' lies in " + std::string(kFirst) + " and in " + kSecond + ", and the index names neither",
      [&] { SafetensorsFolder::open(folder.path()); });
}

TEST_CASE("every tensor of an index that lies nowhere is named") {
  ShardedFolder folder;
  folder.put_index(R"({"a":")" + std::string(kFirst) + R"(","d":")" + kSecond + R"(","e":")" +
                   kFirst + R"(","c":")" + kSecond + R"("})");
  const auto message = check_error(ErrorCode::kInvalidFile, "disagrees with its shards:", [&] {
    SafetensorsFolder::open(folder.path());
  });
  CHECK(message.ends_with("\n  '" + std::string(kSecond) + "' lacks 'd'\n  '" + kFirst +
                          "' lacks 'e'"));
}

TEST_CASE("every missing shard is named") {
  ShardedFolder folder;
  fs::remove(folder / kFirst);
  fs::remove(folder / kSecond);
  const auto message = check_error(ErrorCode::kFileNotFound, "lacks 2 of the 2 files",
                                   [&] { SafetensorsFolder::open(folder.path()); });
  CHECK(message.ends_with(":\n  '" + std::string(kFirst) + "'\n  '" + kSecond + "'"));
}

TEST_CASE("a damaged shard is named") {
  const ShardedFolder folder;
  put(folder / kSecond, "short");
  check_error(ErrorCode::kInvalidFile, std::string(kSecond) + "': too short",
              [&] { SafetensorsFolder::open(folder.path()); });
}

std::string hint_for(const fs::path& folder) {
  try {
    SafetensorsFolder::open(folder);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kFileNotFound);
    return error.hint();
  }
  FAIL("opened");
  return {};
}

TEST_CASE("a folder without tensors says what was looked for and what to do") {
  const TemporaryFolder folder;
  check_error(ErrorCode::kFileNotFound,
              "has neither model.safetensors nor model.safetensors.index.json",
              [&] { SafetensorsFolder::open(folder.path()); });
  CHECK(hint_for(folder.path()) ==
        "name the folder of a Hugging Face checkpoint in safetensors format");
  put(folder / "pytorch_model-00001-of-00002.bin", "");
  CHECK(hint_for(folder.path()).starts_with("'pytorch_model-00001-of-00002.bin' is not read"));
  put(folder / "Q4.gguf", "");
  const auto hint = hint_for(folder.path());
  CHECK(hint.starts_with("'Q4.gguf' is not read; convert it"));
  CHECK(hint.find("gguf_file='Q4.gguf'") != hint.npos);
}

TEST_CASE("what lies in place of safetensors decides the next step") {
  const std::pair<const char*, const char*> rows[] = {
      {"consolidated.00.pth",
       "'consolidated.00.pth' is not read: it is in the format of the model's"},
      {"consolidated.safetensors", "'consolidated.safetensors' is not read: it is in the format"},
      {"model-00002-of-00003.safetensors", "fetch model.safetensors.index.json too"},
      {"model.fp16.safetensors",
       "'model.fp16.safetensors' is not read: accepted are model.safetens"},
      {"tf_model.h5", "'tf_model.h5' is not read: accepted are"},
      {"weights.pth", "'weights.pth' is not read: accepted are"}};
  for (const auto& [name, part] : rows) {
    CAPTURE(name);
    const TemporaryFolder folder;
    put(folder / name, "");
    put(folder / "config.json", "{}");
    CHECK(hint_for(folder.path()).find(part) != std::string::npos);
  }
}

TEST_CASE("an adapter alone is told from a model, with its base") {
  const TemporaryFolder folder;
  put(folder / "adapter_model.safetensors", "");
  put(folder / "adapter_config.json", R"({"base_model_name_or_path": "org/base-7b"})");
  CHECK(hint_for(folder.path())
            .starts_with("it holds an adapter alone (adapter_config.json), which "
                         "belongs to the base 'org/base-7b': merge the two"));
  put(folder / "adapter_config.json", "[1");
  CHECK(hint_for(folder.path()).find("from_pretrained(BASE)") != std::string::npos);
}

TEST_CASE("what is no folder is refused") {
  const TemporaryFolder folder;
  put(folder / "file", "");
  for (const char* name : {"none", "file"}) {
    check_error(ErrorCode::kFileNotFound, std::string(name) + "' is not a folder",
                [&] { SafetensorsFolder::open(folder / name); });
  }
}

}  // namespace
}  // namespace outrider::safetensors_folder_tests
