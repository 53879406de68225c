#include "zip_archive.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "byte_cursor.h"
#include "crc32.h"
#include "zip_layout.h"

namespace outrider {
namespace {

// https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3 and 4.5.
constexpr uint32_t kLocalHeader = 0x04034b50, kDirectoryHeader = 0x02014b50;
constexpr uint32_t kEndOfDirectory = 0x06054b50;
constexpr uint32_t kZip64End = 0x06064b50, kZip64Locator = 0x07064b50;
constexpr size_t kEndBytes = 22, kLocatorBytes = 20, kZip64EndBytes = 56;
constexpr uint16_t kEncrypted = 1, kSizesFollow = 8, kUtf8 = 0x800;
constexpr size_t kMostEntries = size_t{1} << 17;
constexpr size_t kLongestEntryName = 1024;
// The pickle that a legacy file begins with: a magic number of ten bytes.
constexpr std::string_view kLegacyTorch = "\x80\x02\x8a\x0a";

/// Where the directory lies, and how many entries it has.
struct Directory {
  uint64_t begin = 0, size = 0, count = 0;
  size_t end = 0;
};

/// A directory entry before its data was looked at.
struct Header {
  std::string_view name;
  uint16_t flags = 0, method = 0;
  uint32_t crc32 = 0;
  uint64_t packed = 0, size = 0, offset = 0;
};

struct Range {
  size_t begin, end;
  std::string_view name;
};

class DirectoryReader {
 public:
  DirectoryReader(std::span<const std::byte> file, const std::string& origin)
      : file_(file), origin_(origin), directory_(find_directory()) {}

  std::map<std::string_view, ZipArchive::Entry> read() {
    ByteCursor cursor(file_.first(directory_.end), origin_, directory_.begin);
    std::map<std::string_view, ZipArchive::Entry> entries;
    for (uint64_t i = 0; i < directory_.count; ++i) {
      const auto header = read_header(cursor);
      check(header);
      if (!entries.try_emplace(header.name, ZipArchive::Entry{data_of(header), header.crc32})
               .second) {
        fail(header.name, "occurs twice");
      }
    }
    if (cursor.left() != 0) fail("its zip directory is longer than its entries");
    check_overlaps();
    return entries;
  }

 private:
  [[noreturn]] void fail(const std::string& reason) const { throw damaged(origin_, reason); }
  [[noreturn]] void fail(std::string_view name, const std::string& reason) const {
    fail("the zip entry " + in_quotes(name, 100) + " " + reason);
  }

  ByteCursor at(size_t position) const { return {file_, origin_, position}; }
  uint32_t signature(size_t position) const { return at(position).take<uint32_t>(); }

  void refuse_other_formats() const {
    const std::string_view text(reinterpret_cast<const char*>(file_.data()),
                                std::min(file_.size(), kLegacyTorch.size()));
    if (text != kLegacyTorch) return;
    throw Error(ErrorCode::kInvalidFile,
                in_quotes(origin_) + " is in the format that torch.save() wrote before 1.6",
                "load it with torch and save it again, without "
                "_use_new_zipfile_serialization=False");
  }

  Directory find_directory() const {
    refuse_other_formats();
    if (file_.size() < kEndBytes || signature(file_.size() - kEndBytes) != kEndOfDirectory) {
      fail("does not end with the directory of a zip file");
    }
    const size_t end = file_.size() - kEndBytes;
    const auto plain = read_end(end);
    const auto zip64 = read_zip64_end(end);
    const auto found = zip64.value_or(plain);
    if (zip64) check_equal(plain, *zip64);
    if (found.begin > found.end || found.size != found.end - found.begin) {
      fail("its zip directory is not where it should be");
    }
    if (found.count > kMostEntries) {
      fail(fmt::format("has {} zip entries; at most {} are accepted", found.count, kMostEntries));
    }
    return found;
  }

  Directory read_end(size_t position) const {
    auto cursor = at(position + 4);
    const auto disk = cursor.take<uint16_t>(), first_disk = cursor.take<uint16_t>();
    const auto here = cursor.take<uint16_t>(), count = cursor.take<uint16_t>();
    const auto size = cursor.take<uint32_t>(), begin = cursor.take<uint32_t>();
    if (disk != 0 || first_disk != 0 || here != count) fail("is one part of a divided zip file");
    if (cursor.take<uint16_t>() != 0) fail("has a comment at its end, which torch never writes");
    return {begin, size, count, position};
  }

  /// Nothing where the file has no zip64 record.
  std::optional<Directory> read_zip64_end(size_t end) const {
    if (end < kLocatorBytes + kZip64EndBytes) return std::nullopt;
    const size_t locator = end - kLocatorBytes, record = locator - kZip64EndBytes;
    if (signature(locator) != kZip64Locator) return std::nullopt;
    auto cursor = at(locator + 4);
    const auto disk = cursor.take<uint32_t>();
    const auto offset = cursor.take<uint64_t>();
    if (disk != 0 || offset != record || signature(record) != kZip64End) {
      fail("its zip64 record is not where it should be");
    }
    auto fields = at(record + 4);
    const auto size_of_record = fields.take<uint64_t>();
    fields.skip(4);  // versions
    const auto disks = fields.take<uint64_t>();
    const auto here = fields.take<uint64_t>(), count = fields.take<uint64_t>();
    const auto size = fields.take<uint64_t>(), begin = fields.take<uint64_t>();
    if (size_of_record != kZip64EndBytes - 12 || disks != 0 || here != count) {
      fail("its zip64 record is not one that torch writes");
    }
    return Directory{begin, size, count, record};
  }

  void check_equal(const Directory& plain, const Directory& zip64) const {
    const bool equal = (plain.count == 0xFFFF || plain.count == zip64.count) &&
                       (plain.size == kIn64 || plain.size == zip64.size) &&
                       (plain.begin == kIn64 || plain.begin == zip64.begin);
    if (!equal) fail("its two zip directories disagree");
  }

  Header read_header(ByteCursor& cursor) const {
    if (cursor.take<uint32_t>() != kDirectoryHeader) fail("its zip directory is damaged");
    Header header;
    cursor.skip(4);  // versions
    header.flags = cursor.take<uint16_t>();
    header.method = cursor.take<uint16_t>();
    cursor.skip(4);  // time and date
    header.crc32 = cursor.take<uint32_t>();
    header.packed = cursor.take<uint32_t>();
    header.size = cursor.take<uint32_t>();
    const auto name = cursor.take<uint16_t>(), extra = cursor.take<uint16_t>();
    const auto comment = cursor.take<uint16_t>(), disk = cursor.take<uint16_t>();
    cursor.skip(6);  // attributes
    header.offset = cursor.take<uint32_t>();
    header.name = cursor.take_text(name);
    read_zip64_fields(header, cursor.take_bytes(extra));
    if (disk != 0) fail(header.name, "lies on another disk");
    cursor.skip(comment);
    return header;
  }

  /// Fields that did not fit into 32 bits stand in an extra field, in this order.
  void read_zip64_fields(Header& header, std::span<const std::byte> extra) const {
    ByteCursor cursor(extra, origin_);
    while (cursor.left() != 0) {
      const auto id = cursor.take<uint16_t>(), length = cursor.take<uint16_t>();
      ByteCursor field(cursor.take_bytes(length), origin_);
      if (id != kZip64Extra) continue;
      for (auto* value : {&header.size, &header.packed, &header.offset}) {
        if (*value == kIn64) *value = field.take<uint64_t>();
      }
    }
  }

  void check(const Header& header) const {
    if (!is_safe_name(header.name)) fail(header.name, "has a name that leads out of the archive");
    if ((header.flags & kEncrypted) != 0) fail(header.name, "is encrypted");
    if (header.method != 0 || header.packed != header.size) {
      fail(header.name, "is compressed, which torch never does");
    }
    if ((header.flags & ~(kSizesFollow | kUtf8)) != 0) {
      fail(header.name, fmt::format("has the flags {:#06x}", header.flags));
    }
  }

  static bool is_safe_name(std::string_view name) {
    if (name.empty() || name.size() > kLongestEntryName || name.front() == '/' || !is_utf8(name) ||
        name.find('\\') != name.npos || name.find('\0') != name.npos) {
      return false;
    }
    const std::string framed = fmt::format("/{}/", name);
    return framed.find("/../") == framed.npos && framed.find("/./") == framed.npos &&
           framed.find("//") == framed.npos;
  }

  std::span<const std::byte> data_of(const Header& header) {
    if (header.offset >= directory_.begin) fail(header.name, "begins beyond the data");
    ByteCursor cursor(file_.first(directory_.begin), origin_, header.offset);
    if (cursor.take<uint32_t>() != kLocalHeader) fail(header.name, "has no header before its data");
    cursor.skip(2);  // version
    const auto flags = cursor.take<uint16_t>(), method = cursor.take<uint16_t>();
    cursor.skip(4);  // time and date
    const auto crc = cursor.take<uint32_t>();
    cursor.skip(8);  // sizes: 0 or 2^32-1 where they stand elsewhere
    const auto name = cursor.take<uint16_t>(), extra = cursor.take<uint16_t>();
    const bool same = cursor.take_text(name) == header.name && flags == header.flags &&
                      method == header.method &&
                      ((flags & kSizesFollow) != 0 || crc == header.crc32);
    if (!same) fail(header.name, "is described differently before its data");
    cursor.skip(extra);
    if (header.size > cursor.left()) fail(header.name, "reaches into the zip directory");
    const auto data = cursor.take_bytes(header.size);
    ranges_.push_back({header.offset, cursor.position(), header.name});
    return data;
  }

  void check_overlaps() {
    std::sort(ranges_.begin(), ranges_.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < ranges_.size(); ++i) {
      if (ranges_[i].begin < ranges_[i - 1].end) {
        fail(ranges_[i].name, "overlaps " + in_quotes(ranges_[i - 1].name, 100));
      }
    }
  }

  std::span<const std::byte> file_;
  const std::string& origin_;
  Directory directory_;
  std::vector<Range> ranges_;
};

}  // namespace

ZipArchive::ZipArchive(std::span<const std::byte> file, std::string origin)
    : origin_(std::move(origin)), entries_(DirectoryReader(file, origin_).read()) {}

std::span<const std::byte> ZipArchive::read(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    throw damaged(origin_, "has no zip entry " + in_quotes(name, 100));
  }
  if (crc32(found->second.bytes) != found->second.crc32) {
    throw damaged(origin_,
                  "the zip entry " + in_quotes(name, 100) + " does not match its checksum");
  }
  return found->second.bytes;
}

}  // namespace outrider
