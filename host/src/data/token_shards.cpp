#include "outrider/host/token_shards.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/sha256.h"
#include "outrider/problems.h"
#include "outrider/text.h"
#include "plain_file_name.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kShardsVersion = 1;
constexpr const char* kDescriptionFile = "shards.json";
constexpr const char* kUnfinishedFile = "unfinished.json";
constexpr const char* kPrepareAgain = "write the shards again with `outrider data prepare`";

[[noreturn]] void refuse_shards(const fs::path& file, const std::string& what) {
  throw Error(ErrorCode::kInvalidFile, fmt::format("{}: {}", printable(file.string(), 400), what),
              kPrepareAgain);
}

struct ShardEntry {
  std::string file, sha256;
  int64_t conversations, tokens;
};

/// An integer in [low, high], or a problem.
int64_t read_integer(const Json& object, const char* key, const std::string& where, int64_t low,
                     int64_t high, Problems& problems) {
  const auto found = object.find(key);
  if (found != object.end() && found->is_number_integer()) {
    // A value above int64's range reads as negative and fails the check.
    const auto value = found->get<int64_t>();
    if (value >= low && value <= high) return value;
  }
  problems.add(
      fmt::format("'{}{}' must be an integer from {} to {}{}", where, key, low, high,
                  found == object.end() ? ", is missing" : ", is " + printable(found->dump(), 40)));
  return low;
}

std::string read_sha256(const Json& object, const std::string& where, Problems& problems) {
  const auto found = object.find("sha256");
  if (found == object.end() || !found->is_string() || !is_sha256(found->get<std::string>())) {
    problems.add(fmt::format("'{}.sha256' must be 64 lower-case hexadecimal digits, is {}", where,
                             found == object.end() ? "missing" : printable(found->dump(), 80)));
    return {};
  }
  return found->get<std::string>();
}

ShardEntry read_entry(const Json& json, const std::string& where, Problems& problems) {
  constexpr auto kMax = std::numeric_limits<int64_t>::max();
  if (!json.is_object() || !json.contains("file") || !json["file"].is_string()) {
    problems.add(fmt::format("'{}' must be an object with a string 'file'", where));
    return {};
  }
  ShardEntry entry{json["file"].get<std::string>(), read_sha256(json, where, problems), 0, 0};
  if (!is_plain_file_name(entry.file)) {
    problems.add(fmt::format("'{}.file' must be a file name without a folder, is '{}'", where,
                             printable(entry.file)));
  }
  entry.conversations = read_integer(json, "conversations", where + ".", 1, kMax, problems);
  entry.tokens = read_integer(json, "tokens", where + ".", 1, kMax, problems);
  return entry;
}

std::vector<ShardEntry> read_entries(const Json& description, Problems& problems) {
  std::vector<ShardEntry> entries;
  const auto shards = description.find("shards");
  if (shards == description.end() || !shards->is_array() || shards->empty()) {
    problems.add("'shards' must be a list of at least one shard");
    return entries;
  }
  for (size_t i = 0; i < shards->size(); ++i) {
    entries.push_back(read_entry((*shards)[i], fmt::format("shards[{}]", i), problems));
  }
  return entries;
}

/// Throws unless this program knows the version and kind of the description.
void check_format(const fs::path& file, const Json& description) {
  if (!description.is_object() || !description.contains("format_version")) {
    refuse_shards(file, "not a description of token shards: it has no 'format_version'");
  }
  if (description["format_version"] != kShardsVersion) {
    refuse_shards(file,
                  fmt::format("format_version {} is unknown, accepted is {}",
                              printable(description["format_version"].dump(), 40), kShardsVersion));
  }
  if (!description.contains("kind") || description["kind"] != "tokens") {
    refuse_shards(file, "'kind' is not \"tokens\"");
  }
}

/// The elements of a one-dimensional tensor, in place.
template <typename T>
std::span<const T> elements(const SafetensorsFile& file, const char* name, const char* dtype) {
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end())
    refuse_shards(file.path(), fmt::format("has no tensor '{}'", name));
  const auto& view = found->second;
  if (view.dtype != dtype || view.shape.size() != 1) {
    refuse_shards(file.path(),
                  fmt::format("tensor '{}' must be {} with one dimension, is {} with {}", name,
                              dtype, printable(view.dtype), view.shape.size()));
  }
  if (reinterpret_cast<uintptr_t>(view.bytes.data()) % alignof(T) != 0) {
    refuse_shards(file.path(), fmt::format("tensor '{}' is not aligned", name));
  }
  return {reinterpret_cast<const T*>(view.bytes.data()), view.bytes.size() / sizeof(T)};
}

struct ShardContent {
  std::span<const int32_t> input_ids;
  std::span<const uint8_t> loss_mask;
  std::span<const int64_t> offsets;
};

void check_lengths(const fs::path& file, const ShardContent& content, const ShardEntry& entry) {
  if (content.loss_mask.size() != content.input_ids.size()) {
    refuse_shards(file, fmt::format("loss_mask has {} tokens, input_ids has {}",
                                    content.loss_mask.size(), content.input_ids.size()));
  }
  const auto conversations = static_cast<int64_t>(content.offsets.size()) - 1;
  const auto tokens = static_cast<int64_t>(content.input_ids.size());
  if (conversations != entry.conversations || tokens != entry.tokens) {
    refuse_shards(
        file, fmt::format("holds {} conversations and {} tokens, {} says {} and {}", conversations,
                          tokens, kDescriptionFile, entry.conversations, entry.tokens));
  }
}

void check_offsets(const fs::path& file, const ShardContent& content) {
  const auto offsets = content.offsets;
  const auto tokens = static_cast<int64_t>(content.input_ids.size());
  if (offsets.front() != 0 || offsets.back() != tokens) {
    refuse_shards(file, fmt::format("offsets must run from 0 to {}, run from {} to {}", tokens,
                                    offsets.front(), offsets.back()));
  }
  for (size_t i = 1; i < offsets.size(); ++i) {
    if (offsets[i] <= offsets[i - 1]) {
      refuse_shards(file, fmt::format("offsets must increase, offsets[{}] = {} follows {}", i,
                                      offsets[i], offsets[i - 1]));
    }
  }
}

void check_values(const fs::path& file, const ShardContent& content, int64_t vocab_size) {
  for (size_t i = 0; i < content.input_ids.size(); ++i) {
    if (const auto id = content.input_ids[i]; id < 0 || id >= vocab_size) {
      refuse_shards(file, fmt::format("input_ids[{}] = {} is outside the vocabulary of {}", i, id,
                                      vocab_size));
    }
    if (content.loss_mask[i] > 1) {
      refuse_shards(file,
                    fmt::format("loss_mask[{}] = {} is neither 0 nor 1", i, content.loss_mask[i]));
    }
  }
}

void check_sha256(const fs::path& file, const std::string& expected) {
  if (const auto found = sha256_of_file(file); found != expected) {
    refuse_shards(
        file, fmt::format("was changed after it was written: its SHA-256 is {}, {} says {}", found,
                          kDescriptionFile, expected));
  }
}

ShardContent read_shard(const SafetensorsFile& file, const ShardEntry& entry, int64_t vocab_size,
                        bool is_checked) {
  if (is_checked) check_sha256(file.path(), entry.sha256);
  const ShardContent content{elements<int32_t>(file, "input_ids", "I32"),
                             elements<uint8_t>(file, "loss_mask", "U8"),
                             elements<int64_t>(file, "offsets", "I64")};
  if (content.offsets.empty()) refuse_shards(file.path(), "offsets is empty");
  check_lengths(file.path(), content, entry);
  check_offsets(file.path(), content);
  if (is_checked) check_values(file.path(), content, vocab_size);
  return content;
}

Json read_description(const fs::path& file) {
  if (!fs::exists(file) && fs::exists(file.parent_path() / kUnfinishedFile)) {
    throw Error(ErrorCode::kFileNotFound,
                fmt::format("{}: no such file: the folder holds what an interrupted "
                            "`outrider data prepare` left",
                            printable(file.string(), 400)),
                "finish it with the same command and --resume");
  }
  if (!fs::exists(file)) {
    throw Error(ErrorCode::kFileNotFound,
                fmt::format("{}: no such file, so this is no folder of token shards",
                            printable(file.string(), 400)),
                "write token shards with `outrider data prepare`");
  }
  return read_json_file(file);
}

}  // namespace

TokenShards TokenShards::open(const fs::path& folder, Part part) {
  const auto file = folder / kDescriptionFile;
  TokenShards shards;
  shards.description_ = read_description(file);
  check_format(file, shards.description_);
  Problems problems;
  shards.vocab_size_ = read_integer(shards.description_, "vocab_size", "", 1,
                                    std::numeric_limits<int32_t>::max(), problems);
  const auto entries = read_entries(shards.description_, problems);
  if (!problems.empty()) refuse_shards(file, join(problems.all(), "; "));
  for (size_t i = 0; i < entries.size(); ++i) {
    const bool is_checked = static_cast<int64_t>(i) % part.count == part.index;
    const auto& shard = shards.files_.emplace_back(SafetensorsFile::open(folder / entries[i].file));
    const auto content = read_shard(*shard, entries[i], shards.vocab_size_, is_checked);
    for (size_t j = 0; j + 1 < content.offsets.size(); ++j) {
      const auto begin = content.offsets[j], length = content.offsets[j + 1] - begin;
      shards.index_.push_back(
          {content.input_ids.subspan(begin, length), content.loss_mask.subspan(begin, length)});
    }
    shards.token_count_ += static_cast<int64_t>(content.input_ids.size());
    shards.trained_token_count_ += std::ranges::count(content.loss_mask, uint8_t{1});
  }
  if (shards.trained_token_count_ == 0) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: no token is trained on", printable(folder.string(), 400)),
                kPrepareAgain);
  }
  return shards;
}

TokenShards::Conversation TokenShards::conversation(int64_t i) const {
  if (i < 0 || i >= size()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("conversation {} of {} token shards' conversations", i, size()));
  }
  return index_[static_cast<size_t>(i)];
}

int64_t TokenShards::width(const std::vector<int64_t>& conversations, int64_t max_length) const {
  size_t longest = 0;
  for (const auto i : conversations) longest = std::max(longest, conversation(i).input_ids.size());
  return std::min(static_cast<int64_t>(longest), max_length);
}

namespace {

TrainBatch empty_batch(int64_t rows, int64_t width) {
  TrainBatch batch;
  for (auto* tensor : {&batch.input_ids, &batch.attention_mask, &batch.loss_mask}) {
    *tensor = at::zeros({rows, width}, at::kLong);
  }
  return batch;
}

// A conversation's first `length` tokens, from `place` of the batch's positions on.
void write_tokens(const TrainBatch& batch, const TokenShards::Conversation& conversation,
                  int64_t length, int64_t place) {
  const auto at_place = [&](const at::Tensor& x) { return x.mutable_data_ptr<int64_t>() + place; };
  std::copy_n(conversation.input_ids.begin(), length, at_place(batch.input_ids));
  std::copy_n(conversation.loss_mask.begin(), length, at_place(batch.loss_mask));
  std::fill_n(at_place(batch.attention_mask), length, 1);
}

}  // namespace

TrainBatch TokenShards::batch(const std::vector<int64_t>& conversations, int64_t max_length,
                              int64_t width) const {
  if (conversations.empty() || max_length < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a batch of {} conversations of at most {} tokens is empty",
                            conversations.size(), max_length));
  }
  width = std::max(width, this->width(conversations, max_length));
  auto batch = empty_batch(static_cast<int64_t>(conversations.size()), width);
  for (size_t row = 0; row < conversations.size(); ++row) {
    const auto one = conversation(conversations[row]);
    const auto length = std::min(static_cast<int64_t>(one.input_ids.size()), max_length);
    write_tokens(batch, one, length, static_cast<int64_t>(row) * width);
  }
  return batch;
}

TrainBatch TokenShards::packed_batch(const std::vector<ConversationRow>& rows, int64_t max_length,
                                     int64_t width) const {
  auto batch = empty_batch(static_cast<int64_t>(rows.size()), width);
  batch.document_ids = at::zeros_like(batch.input_ids);
  for (size_t row = 0; row < rows.size(); ++row) {
    const auto first = static_cast<int64_t>(row) * width;
    auto* document = batch.document_ids.mutable_data_ptr<int64_t>() + first;
    int64_t used = 0;
    for (const int64_t index : rows[row]) {
      const auto one = conversation(index);
      const auto length = std::min(static_cast<int64_t>(one.input_ids.size()), max_length);
      if (used + length > width) {
        throw Error(
            ErrorCode::kInternal,
            fmt::format("packed_batch: conversation {} does not fit into a row of {} tokens", index,
                        width));
      }
      write_tokens(batch, one, length, first + used);
      used += length;
      std::for_each(document + used, document + width, [](int64_t& id) { ++id; });
    }
  }
  batch.documents = ops::documents_of(batch.document_ids).with_common_sizes();
  return batch;
}

std::vector<int64_t> TokenShards::target_counts() const {
  std::vector<int64_t> counts(static_cast<size_t>(vocab_size_));
  for (const auto& [ids, mask] : index_) {
    for (size_t t = 0; t < ids.size(); ++t) counts[ids[t]] += mask[t];
  }
  return counts;
}

}  // namespace outrider
