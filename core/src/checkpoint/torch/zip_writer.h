#pragma once

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <span>
#include <string>
#include <string_view>

namespace outrider {

/// Writes a zip file as torch.save() does: stored entries without dates, then their directory.
class ZipWriter {
 public:
  /// Sizes and places from `limit` on are written as zip64 does, in 64 bits.
  explicit ZipWriter(std::ostream& out, uint64_t limit = 0xFFFFFFFF) : out_(out), limit_(limit) {}

  /// The entry's bytes begin at a multiple of `alignment`.
  void add(std::string_view name, std::span<const std::byte> bytes, size_t alignment = 1);
  void add(std::string_view name, std::string_view bytes);
  void finish();

 private:
  void write(std::string_view bytes);
  bool is_large(uint64_t value) const { return value >= limit_; }
  uint32_t in_32_bits(uint64_t value) const;
  /// From "version needed" to the length of the extra field, which both headers have.
  std::string common_fields(std::string_view name, std::span<const std::byte> bytes, uint32_t crc,
                            std::string_view extra) const;

  std::ostream& out_;
  uint64_t limit_, written_ = 0, count_ = 0;
  std::string directory_;
};

}  // namespace outrider
