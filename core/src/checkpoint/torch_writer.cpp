#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <string>
#include <string_view>

#include "crc32.h"
#include "outrider/checkpoint/atomic_file.h"
#include "outrider/checkpoint/torch_file.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

using IsTuple = std::function<bool(const Json& list)>;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

// --- the pickle --------------------------------------------------------------------------------

/// Protocol 2, without a memo: every value is written where it stands.
class PickleWriter {
 public:
  explicit PickleWriter(const IsTuple& is_tuple) : is_tuple_(is_tuple) {}

  std::string write(const Json& value) {
    out_ = "\x80\x02";
    add(value);
    return out_ + ".";
  }

 private:
  void add(const Json& value) {
    switch (value.type()) {
      case Json::value_t::null:
        out_ += 'N';
        return;
      case Json::value_t::boolean:
        out_ += value.get<bool>() ? '\x88' : '\x89';
        return;
      case Json::value_t::number_float:
        return add(value.get<double>());
      case Json::value_t::number_integer:
      case Json::value_t::number_unsigned:
        return add(value.get<int64_t>());
      case Json::value_t::string:
        return add(std::string_view(value.get_ref<const std::string&>()));
      case Json::value_t::array:
        return add_list(value);
      case Json::value_t::object:
        return add_dict(value);
      default:
        throw Error(ErrorCode::kInvalidArgument, "a torch file cannot hold bytes");
    }
  }

  void add(double value) {
    if (!std::isfinite(value)) {
      throw Error(ErrorCode::kInvalidArgument, "a torch file cannot hold a number not finite");
    }
    out_ += 'G';
    put(out_, __builtin_bswap64(std::bit_cast<uint64_t>(value)));
  }

  void add(int64_t value) {
    if (value >= std::numeric_limits<int32_t>::min() &&
        value <= std::numeric_limits<int32_t>::max()) {
      out_ += 'J';
      return put(out_, static_cast<int32_t>(value));
    }
    out_ += "\x8a\x08";
    put(out_, value);
  }

  void add(std::string_view text) {
    if (!is_utf8(text)) {
      throw Error(ErrorCode::kInvalidArgument,
                  "a torch file cannot hold " + in_quotes(text, 80) + ": it is not UTF-8");
    }
    out_ += 'X';
    put(out_, static_cast<uint32_t>(text.size()));
    out_ += text;
  }

  void add_list(const Json& list) {
    const bool is_tuple = is_tuple_ && is_tuple_(list);
    out_ += is_tuple ? "(" : "](";
    for (const auto& item : list) add(item);
    out_ += is_tuple ? 't' : 'e';
  }

  void add_dict(const Json& dict) {
    out_ += "}(";
    for (const auto& [key, value] : dict.items()) {
      add(std::string_view(key));
      add(value);
    }
    out_ += 'u';
  }

  const IsTuple& is_tuple_;
  std::string out_;
};

// --- the archive -------------------------------------------------------------------------------

/// Stored entries and a directory, with the dates that torch writes: none.
class ZipWriter {
 public:
  void add(const std::string& name, std::string_view bytes) {
    const auto offset = static_cast<uint32_t>(out_.size());
    const std::string fields = common_fields(name, bytes);
    out_ += "PK\x03\x04";
    out_ += fields;
    out_ += name;
    out_ += bytes;
    directory_ += "PK\x01\x02";
    put<uint16_t>(directory_, kVersion);
    directory_ += fields;
    directory_.append(10, '\0');  // no comment, disk 0, no attributes
    put(directory_, offset);
    directory_ += name;
    ++count_;
  }

  std::string finish() {
    const auto begin = static_cast<uint32_t>(out_.size());
    out_ += directory_;
    out_.append("PK\x05\x06\0\0\0\0", 8);
    put(out_, count_);
    put(out_, count_);
    put(out_, static_cast<uint32_t>(directory_.size()));
    put(out_, begin);
    put<uint16_t>(out_, 0);
    return std::move(out_);
  }

 private:
  static constexpr uint16_t kVersion = 20;

  /// From "version needed" to the length of the extra field, which both headers have.
  static std::string common_fields(const std::string& name, std::string_view bytes) {
    std::string fields;
    put<uint16_t>(fields, kVersion);
    fields.append(8, '\0');  // no flags, stored, no time and date
    put(fields, crc32(std::as_bytes(std::span(bytes.data(), bytes.size()))));
    put(fields, static_cast<uint32_t>(bytes.size()));
    put(fields, static_cast<uint32_t>(bytes.size()));
    put(fields, static_cast<uint16_t>(name.size()));
    put<uint16_t>(fields, 0);
    return fields;
  }

  std::string out_, directory_;
  uint16_t count_ = 0;
};

}  // namespace

void write_torch_file(const std::filesystem::path& path, const Json& value,
                      const std::function<bool(const Json& list)>& is_tuple) {
  const auto folder = path.stem().string();
  ZipWriter zip;
  zip.add(folder + "/data.pkl", PickleWriter(is_tuple).write(value));
  zip.add(folder + "/byteorder", "little");
  zip.add(folder + "/version", "3\n");
  const auto bytes = zip.finish();
  write_file_atomically(path, [&bytes](std::ostream& out) { out << bytes; });
}

}  // namespace outrider
