#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <stdlib.h>

#include <functional>

#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/host/sha256.h"
#include "outrider/host/token_shards.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

/// Writes folders of token shards, by default two shards that are right, and opens them.
class Fixture {
 public:
  struct Shard {
    std::vector<int32_t> input_ids;
    std::vector<uint8_t> loss_mask;
    std::vector<int64_t> offsets;
  };

  Fixture() {
    std::string pattern = (fs::temp_directory_path() / "token_shards_XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()));
    folder = pattern;
    describe(0, 2, 5);
    describe(1, 1, 3);
  }
  ~Fixture() { fs::remove_all(folder); }

  TokenShards open() {
    for (size_t i = 0; i < shards.size(); ++i) {
      write(shards[i], file(i));
      if (hashes_are_right) set_sha256(i);
    }
    write_json_file(folder / "shards.json", description);
    return TokenShards::open(folder);
  }

  /// The text of the error that opening ends in.
  std::string failure(ErrorCode expected) {
    try {
      open();
    } catch (const Error& e) {
      CHECK(e.code() == expected);
      return e.what();
    }
    FAIL("opened");
    return {};
  }

  fs::path file(size_t i) const {
    return folder / ("shard-0000" + std::to_string(i) + ".safetensors");
  }

  static void write(const Shard& shard, const fs::path& path) {
    const auto view = [](const char* dtype, const auto& values) {
      return TensorView{
          dtype, {static_cast<int64_t>(values.size())}, std::as_bytes(std::span(values))};
    };
    write_safetensors(path, {{"input_ids", view("I32", shard.input_ids)},
                             {"loss_mask", view("U8", shard.loss_mask)},
                             {"offsets", view("I64", shard.offsets)}});
  }

  fs::path folder;
  bool hashes_are_right = true;
  std::vector<Shard> shards{{{1, 5, 6, 1, 7}, {0, 1, 1, 0, 1}, {0, 3, 5}},
                            {{9, 7, 5}, {0, 0, 1}, {0, 3}}};
  Json description{{"format_version", 1}, {"kind", "tokens"}, {"vocab_size", 10}};

 private:
  void set_sha256(size_t i) {
    if (!description.is_object() || i >= description["shards"].size()) return;
    if (auto& shard = description["shards"][i]; shard.is_object()) {
      shard["sha256"] = sha256_of_file(file(i));
    }
  }

  void describe(size_t i, int64_t conversations, int64_t tokens) {
    description["shards"].push_back({{"file", file(i).filename().string()},
                                     {"sha256", std::string(64, '0')},
                                     {"conversations", conversations},
                                     {"tokens", tokens}});
  }
};

bool contains(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

bool equals(const at::Tensor& tensor, const std::vector<int64_t>& values) {
  return tensor.scalar_type() == at::kLong &&
         tensor.reshape(-1).equal(at::tensor(values, at::kLong));
}

TEST_CASE_FIXTURE(Fixture, "token shards are one list of conversations") {
  const auto opened = open();
  CHECK(opened.size() == 3);
  CHECK(opened.token_count() == 8);
  CHECK(opened.trained_token_count() == 4);
  CHECK(opened.vocab_size() == 10);
  CHECK(opened.description() == description);
  const auto [ids, mask] = opened.conversation(1);
  CHECK(std::vector(ids.begin(), ids.end()) == std::vector<int32_t>{1, 7});
  CHECK(std::vector(mask.begin(), mask.end()) == std::vector<uint8_t>{0, 1});
  CHECK(opened.conversation(2).input_ids[0] == 9);
  CHECK(opened.target_counts() == std::vector<int64_t>{0, 0, 0, 0, 0, 2, 1, 1, 0, 0});
}

TEST_CASE_FIXTURE(Fixture, "a batch of token shards is right-padded") {
  const auto batch = open().batch({1, 0}, 100);
  CHECK(batch.input_ids.sizes() == at::IntArrayRef{2, 3});
  CHECK(equals(batch.input_ids, {1, 7, 0, 1, 5, 6}));
  CHECK(equals(batch.attention_mask, {1, 1, 0, 1, 1, 1}));
  CHECK(equals(batch.loss_mask, {0, 1, 0, 0, 1, 1}));
  CHECK(!batch.key_mask.defined());
  CHECK(!batch.labels.defined());
}

TEST_CASE_FIXTURE(Fixture, "a batch of token shards is cut at the maximum length") {
  const auto batch = open().batch({2, 0}, 2);
  CHECK(equals(batch.input_ids, {9, 7, 1, 5}));
  CHECK(equals(batch.loss_mask, {0, 0, 0, 1}));
}

TEST_CASE_FIXTURE(Fixture, "a batch of nothing or of unknown conversations is refused") {
  const auto opened = open();
  CHECK_THROWS_WITH_AS(opened.batch({}, 4),
                       "a batch of 0 conversations of at most 4 tokens is empty", Error);
  CHECK_THROWS_AS(opened.batch({0}, 0), Error);
  CHECK_THROWS_WITH_AS(opened.batch({3}, 4), "conversation 3 of 3 token shards' conversations",
                       Error);
  CHECK_THROWS_AS(opened.conversation(-1), Error);
}

TEST_CASE_FIXTURE(Fixture, "a folder without shards.json holds no token shards") {
  try {
    TokenShards::open(folder);
    FAIL("opened");
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kFileNotFound);
    CHECK(contains(e.what(), "shards.json"));
    CHECK(e.hint() == "write token shards with `outrider data prepare`");
  }
}

TEST_CASE_FIXTURE(Fixture, "a missing shard is named") {
  shards.pop_back();
  CHECK(contains(failure(ErrorCode::kFileNotFound), "shard-00001.safetensors"));
}

TEST_CASE_FIXTURE(Fixture, "shards.json of an unknown version or kind is refused") {
  description["format_version"] = 2;
  CHECK(contains(failure(ErrorCode::kInvalidFile), "format_version 2 is unknown, accepted is 1"));
  description["format_version"] = "1";
  CHECK(contains(failure(ErrorCode::kInvalidFile), "format_version \"1\" is unknown"));
  description["format_version"] = 1;
  description["kind"] = "hidden_states";
  CHECK(contains(failure(ErrorCode::kInvalidFile), "'kind' is not \"tokens\""));
  description = Json::array();
  CHECK(contains(failure(ErrorCode::kInvalidFile), "has no 'format_version'"));
}

TEST_CASE_FIXTURE(Fixture, "all problems of shards.json are told at once") {
  description["vocab_size"] = 0;
  description["shards"][0]["tokens"] = 5.0;
  description["shards"][1].erase("conversations");
  const auto text = failure(ErrorCode::kInvalidFile);
  CHECK(contains(text, "'vocab_size' must be an integer from 1 to 2147483647, is 0"));
  CHECK(contains(text,
                 "'shards[0].tokens' must be an integer from 1 to 9223372036854775807, is 5.0"));
  CHECK(contains(text, "'shards[1].conversations' must be an integer"));
  CHECK(contains(text, ", is missing"));
}

TEST_CASE_FIXTURE(Fixture, "a list of shards must hold objects") {
  description["shards"] = Json::array();
  CHECK(
      contains(failure(ErrorCode::kInvalidFile), "'shards' must be a list of at least one shard"));
  description["shards"] = {"shard-00000.safetensors"};
  CHECK(contains(failure(ErrorCode::kInvalidFile), "'shards[0]' must be an object"));
}

TEST_CASE_FIXTURE(Fixture, "shards.json cannot name files elsewhere") {
  const std::string nul("shard\0x", 7);
  for (const std::string& name : {std::string("../shard-00000.safetensors"), file(0).string(),
                                  std::string(".."), std::string(), nul}) {
    description["shards"][0]["file"] = name;
    CHECK(contains(failure(ErrorCode::kInvalidFile),
                   "'shards[0].file' must be a file name without a folder"));
  }
}

TEST_CASE_FIXTURE(Fixture, "control characters of shards.json do not reach the terminal") {
  description["shards"][0]["file"] = "/\x1b[2J";
  CHECK(failure(ErrorCode::kInvalidFile).find('\x1b') == std::string::npos);
}

TEST_CASE_FIXTURE(Fixture, "offsets that do not increase from 0 to the last token are refused") {
  shards[0].offsets = {0, 5, 5};
  CHECK(contains(failure(ErrorCode::kInvalidFile), "offsets[2] = 5 follows 5"));
  shards[0].offsets = {0, 3, 4};
  CHECK(contains(failure(ErrorCode::kInvalidFile), "must run from 0 to 5, run from 0 to 4"));
  shards[0].offsets = {-1, 3, 5};
  CHECK(contains(failure(ErrorCode::kInvalidFile), "must run from 0 to 5, run from -1 to 5"));
  shards[0].offsets = {0, 6, 5};
  CHECK(contains(failure(ErrorCode::kInvalidFile), "offsets[2] = 5 follows 6"));
  shards[0].offsets = {};
  CHECK(contains(failure(ErrorCode::kInvalidFile), "offsets is empty"));
}

TEST_CASE_FIXTURE(Fixture, "shards must hold what shards.json says") {
  description["shards"][0]["tokens"] = 6;
  CHECK(contains(failure(ErrorCode::kInvalidFile),
                 "holds 2 conversations and 5 tokens, shards.json says 2 and 6"));
}

TEST_CASE_FIXTURE(Fixture, "a loss mask has one 0 or 1 for each token") {
  shards[1].loss_mask = {0, 1};
  CHECK(contains(failure(ErrorCode::kInvalidFile), "loss_mask has 2 tokens, input_ids has 3"));
  shards[1].loss_mask = {0, 1, 2};
  CHECK(contains(failure(ErrorCode::kInvalidFile), "loss_mask[2] = 2 is neither 0 nor 1"));
}

TEST_CASE_FIXTURE(Fixture, "token ids outside the vocabulary are refused") {
  shards[0].input_ids[3] = 10;
  CHECK(contains(failure(ErrorCode::kInvalidFile),
                 "input_ids[3] = 10 is outside the vocabulary of 10"));
  shards[0].input_ids[3] = -1;
  CHECK(contains(failure(ErrorCode::kInvalidFile), "input_ids[3] = -1 is outside"));
}

TEST_CASE_FIXTURE(Fixture, "shards with nothing to train on are refused") {
  for (auto& shard : shards) std::ranges::fill(shard.loss_mask, uint8_t{0});
  CHECK(contains(failure(ErrorCode::kInvalidData), "no token is trained on"));
}

TEST_CASE_FIXTURE(Fixture, "of several processes each checks its own files, and reads them all") {
  hashes_are_right = false;
  description["shards"][1]["sha256"] = std::string(64, '1');
  CHECK_THROWS_AS(open(), Error);
  description["shards"][0]["sha256"] = sha256_of_file(file(0));
  write_json_file(folder / "shards.json", description);
  const auto opened = TokenShards::open(folder, {0, 2});
  CHECK(opened.size() == 3);
  CHECK(opened.trained_token_count() == 4);
  CHECK_THROWS_AS(TokenShards::open(folder, {1, 2}), Error);
}

TEST_CASE_FIXTURE(Fixture, "tensors of another type or that are missing are refused") {
  const std::vector<int64_t> values{1, 2, 3};
  const auto bytes = std::as_bytes(std::span(values));
  const auto refusal = [&](const std::string& tensor) {
    open();
    write_safetensors(file(0), {{tensor, {"I64", {3}, bytes}}});
    description["shards"][0]["sha256"] = sha256_of_file(file(0));
    write_json_file(folder / "shards.json", description);
    std::string text;
    try {
      TokenShards::open(folder);
    } catch (const Error& e) {
      text = e.what();
    }
    return text;
  };
  CHECK(refusal("input_ids") ==
        file(0).string() + ": tensor 'input_ids' must be I32 with one dimension, is I64 with 1");
  CHECK(refusal("offsets") == file(0).string() + ": has no tensor 'input_ids'");
}

TEST_CASE_FIXTURE(Fixture, "a shard that was edited in place is noticed") {
  open();
  const auto before = sha256_of_file(file(1));
  shards[1].input_ids[0] = 8;
  write(shards[1], file(1));
  try {
    TokenShards::open(folder);
    FAIL("opened");
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kInvalidFile);
    CHECK(e.what() == file(1).string() + ": was changed after it was written: its SHA-256 is " +
                          sha256_of_file(file(1)) + ", shards.json says " + before);
  }
}

TEST_CASE_FIXTURE(Fixture, "shards.json must hold a SHA-256 of each shard") {
  hashes_are_right = false;
  description["shards"][0].erase("sha256");
  description["shards"][1]["sha256"] = "0x12";
  const auto text = failure(ErrorCode::kInvalidFile);
  CHECK(contains(text, "'shards[0].sha256' must be 64 lower-case hexadecimal digits, is missing"));
  CHECK(contains(text,
                 "'shards[1].sha256' must be 64 lower-case hexadecimal digits, is "
                 "\"0x12\""));
}

TEST_CASE_FIXTURE(Fixture, "what an interrupted preparation left is no folder of token shards") {
  write_json_file(folder / "unfinished.json", Json::object());
  try {
    TokenShards::open(folder);
    FAIL("opened");
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kFileNotFound);
    CHECK(contains(e.what(), "an interrupted `outrider data prepare` left"));
    CHECK(contains(e.hint(), "--resume"));
  }
}

}  // namespace
}  // namespace outrider
