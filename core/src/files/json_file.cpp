#include "outrider/files/json_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/files/git_lfs.h"
#include "outrider/text.h"
#include "regular_file.h"

namespace outrider {
namespace {

[[noreturn]] void fail_at(std::string_view text, size_t position, std::string_view origin,
                          const std::string& reason) {
  const auto before = text.substr(0, position);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  throw Error(ErrorCode::kInvalidFile,
              fmt::format("{}, line {}: {}", in_quotes(origin), line, reason));
}

/// Tells the builder below how far the parser has read, which its events do not say.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, const char** reached) : at_(at), reached_(reached) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    *reached_ = ++at_;
    return *this;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  const char** reached_;
};

/// The parser's own reason, without its prefix and position.
std::string reason_of(const Json::exception& error) {
  std::string_view what = error.what();
  for (const std::string_view prefix : {"] ", "parse error at ", ": "}) {
    const size_t at = what.find(prefix);
    if (at != what.npos) what.remove_prefix(at + prefix.size());
  }
  return printable(what);
}

/// Builds a value from the parser's events, refusing depth beyond the limit and repeated keys.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, std::string_view origin, int depth)
      : text_(text), origin_(origin), reached_(text.data()), most_open_(depth) {}

  Json build() {
    const char* const end = text_.data() + text_.size();
    Json::sax_parse(CountingIterator(text_.data(), &reached_), CountingIterator(end, &reached_),
                    this);
    return std::move(root_);
  }

  bool null() override { return add(nullptr), true; }
  bool boolean(bool value) override { return add(value), true; }
  bool number_integer(number_integer_t value) override { return add(value), true; }
  bool number_unsigned(number_unsigned_t value) override { return add(value), true; }
  bool number_float(number_float_t value, const string_t&) override { return add(value), true; }
  bool string(string_t& value) override { return add(std::move(value)), true; }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return open(Json::object()), true; }
  bool start_array(size_t) override { return open(Json::array()), true; }
  bool end_object() override { return open_.pop_back(), true; }
  bool end_array() override { return open_.pop_back(), true; }

  bool key(string_t& name) override {
    auto& object = open_.back()->get_ref<Json::object_t&>();
    const auto [entry, is_new] = object.try_emplace(std::move(name));
    if (!is_new) fail("the key " + in_quotes(entry->first, 200) + " occurs twice");
    member_ = &entry->second;
    return true;
  }

  bool parse_error(size_t, const std::string&, const Json::exception& error) override {
    fail(reason_of(error));
  }

 private:
  Json* add(Json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    if (!open_.back()->is_array()) return &(*member_ = std::move(value));
    return &open_.back()->emplace_back(std::move(value));
  }

  void open(Json container) {
    if (open_.size() >= most_open_) {
      fail(fmt::format("nested deeper than the {} levels that are accepted", most_open_));
    }
    open_.push_back(add(std::move(container)));
  }

  [[noreturn]] void fail(const std::string& reason) const {
    fail_at(text_, static_cast<size_t>(reached_ - text_.data()), origin_, reason);
  }

  std::string_view text_, origin_;
  const char* reached_;
  size_t most_open_;
  Json root_;
  std::vector<Json*> open_;
  Json* member_ = nullptr;
};

[[noreturn]] void refuse_size(std::string_view origin, size_t limit) {
  throw Error(
      ErrorCode::kInvalidFile,
      fmt::format("{} is larger than the {} bytes that are accepted", in_quotes(origin), limit));
}

std::string read_text(const std::filesystem::path& path, size_t limit) {
  const size_t size = regular_file_size(path);
  if (size > limit) refuse_size(path.string(), limit);
  std::string text(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(text.data(), static_cast<std::streamsize>(size))) {
    throw Error(ErrorCode::kFileUnreadable, in_quotes(path.string()) + " cannot be read");
  }
  refuse_git_lfs_pointer(path, text);
  return text;
}

}  // namespace

Json parse_json(std::string_view text, std::string_view origin, JsonLimits limits) {
  if (text.size() > limits.bytes) refuse_size(origin, limits.bytes);
  // The parser takes a NUL for the end of its input and would accept whatever follows.
  if (const size_t nul = text.find('\0'); nul != text.npos) {
    fail_at(text, nul, origin, "a NUL byte");
  }
  return Builder(text, origin, limits.depth).build();
}

Json read_json_file(const std::filesystem::path& path, JsonLimits limits) {
  return parse_json(read_text(path, limits.bytes), path.string(), limits);
}

void write_json_file(const std::filesystem::path& path, const Json& value) {
  std::string text;
  try {
    text = value.dump(2) + "\n";
  } catch (const Json::type_error&) {
    throw Error(ErrorCode::kInvalidArgument, "cannot write " + in_quotes(path.string()) +
                                                 ": it would hold text that is not UTF-8");
  }
  write_file_atomically(path, [&text](std::ostream& out) { out << text; });
}

}  // namespace outrider
