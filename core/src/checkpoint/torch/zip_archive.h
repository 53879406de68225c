#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace outrider {

/// The entries of a zip file of the kind that torch.save() writes: stored, on one disk, named by
/// relative paths, each byte in at most one entry; zip64 fields are understood.
class ZipArchive {
 public:
  struct Entry {
    std::span<const std::byte> bytes;
    uint32_t crc32 = 0;
  };

  /// Reads the directory. Throws kInvalidFile for everything else, naming what it is. `file` must
  /// outlive the archive.
  ZipArchive(std::span<const std::byte> file, std::string origin);

  const std::map<std::string_view, Entry>& entries() const { return entries_; }
  /// An entry's bytes, compared with its checksum. Throws kInvalidFile, also where there is none.
  std::span<const std::byte> read(std::string_view name) const;

 private:
  std::string origin_;
  std::map<std::string_view, Entry> entries_;
};

}  // namespace outrider
