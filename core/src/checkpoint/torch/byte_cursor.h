#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {

/// The error for foreign bytes that are not what they should be.
inline Error damaged(const std::string& origin, const std::string& reason) {
  return Error(ErrorCode::kInvalidFile, in_quotes(origin) + ": " + reason,
               "fetch or write the file again; it is damaged or was not written to its end");
}

/// Appends the bytes of a number, little-endian.
template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

/// Reads little-endian values from foreign bytes, never beyond their end: that throws kInvalidFile.
class ByteCursor {
 public:
  ByteCursor(std::span<const std::byte> bytes, const std::string& origin, size_t position = 0)
      : bytes_(bytes), origin_(origin), position_(position) {}

  template <class T>
  requires std::is_arithmetic_v<T> T take() {
    T value;
    std::memcpy(&value, take_bytes(sizeof(T)).data(), sizeof(T));
    return value;
  }

  std::span<const std::byte> take_bytes(size_t count) {
    if (position_ > bytes_.size() || count > bytes_.size() - position_) {
      throw damaged(origin_, fmt::format("{} bytes are needed at byte {}, but {} are there", count,
                                         position_, bytes_.size()));
    }
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  std::string_view take_text(size_t length) {
    const auto taken = take_bytes(length);
    return {reinterpret_cast<const char*>(taken.data()), length};
  }

  void skip(size_t count) { take_bytes(count); }
  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }

 private:
  std::span<const std::byte> bytes_;
  const std::string& origin_;
  size_t position_;
};

}  // namespace outrider
