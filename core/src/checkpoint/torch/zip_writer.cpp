#include "zip_writer.h"

#include <algorithm>
#include <ostream>
#include <vector>

#include "byte_cursor.h"
#include "crc32.h"
#include "zip_layout.h"

namespace outrider {
namespace {

// https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3 and 4.5.
constexpr uint16_t kVersion = 20, kZip64Version = 45;
constexpr size_t kLocalHeaderBytes = 30;

std::string zip64_extra(const std::vector<uint64_t>& values) {
  std::string extra;
  if (values.empty()) return extra;
  put(extra, kZip64Extra);
  put(extra, static_cast<uint16_t>(values.size() * sizeof(uint64_t)));
  for (const auto value : values) put(extra, value);
  return extra;
}

/// torch's own extra field, which moves what follows from `position` to a multiple of `alignment`.
std::string padding(uint64_t position, size_t alignment) {
  std::string extra;
  if (alignment <= 1) return extra;
  extra = "FB";
  const uint64_t rest = (position + 4) % alignment;
  const auto length = static_cast<uint16_t>(rest == 0 ? 0 : alignment - rest);
  put(extra, length);
  extra.append(length, 'Z');
  return extra;
}

std::string zip64_end(uint64_t count, uint64_t begin, uint64_t size) {
  std::string end = "PK\x06\x06";
  put<uint64_t>(end, 44);  // bytes of this record from here on
  put(end, kZip64Version);
  put(end, kZip64Version);
  put<uint64_t>(end, 0);  // disks
  for (const auto value : {count, count, size, begin}) put(end, value);
  end += "PK\x06\x07";
  put<uint32_t>(end, 0);
  put(end, begin + size);
  put<uint32_t>(end, 1);
  return end;
}

}  // namespace

void ZipWriter::write(std::string_view bytes) {
  out_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  written_ += bytes.size();
}

uint32_t ZipWriter::in_32_bits(uint64_t value) const {
  return is_large(value) ? kIn64 : static_cast<uint32_t>(value);
}

std::string ZipWriter::common_fields(std::string_view name, std::span<const std::byte> bytes,
                                     uint32_t crc, std::string_view extra) const {
  std::string fields;
  put(fields, extra.empty() ? kVersion : kZip64Version);
  fields.append(8, '\0');  // no flags, stored, no time and date
  put(fields, crc);
  put(fields, in_32_bits(bytes.size()));
  put(fields, in_32_bits(bytes.size()));
  put(fields, static_cast<uint16_t>(name.size()));
  put(fields, static_cast<uint16_t>(extra.size()));
  return fields;
}

void ZipWriter::add(std::string_view name, std::span<const std::byte> bytes, size_t alignment) {
  const uint64_t offset = written_;
  const auto crc = crc32(bytes);
  std::vector<uint64_t> large;
  if (is_large(bytes.size())) large = {bytes.size(), bytes.size()};
  auto extra = zip64_extra(large);
  extra += padding(offset + kLocalHeaderBytes + name.size() + extra.size(), alignment);
  write("PK\x03\x04");
  write(common_fields(name, bytes, crc, extra));
  write(name);
  write(extra);
  write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (is_large(offset)) large.push_back(offset);
  extra = zip64_extra(large);
  directory_ += "PK\x01\x02";
  put(directory_, kVersion);
  directory_ += common_fields(name, bytes, crc, extra);
  directory_.append(10, '\0');  // no comment, disk 0, no attributes
  put(directory_, in_32_bits(offset));
  directory_.append(name).append(extra);
  ++count_;
}

void ZipWriter::add(std::string_view name, std::string_view bytes) {
  add(name, std::as_bytes(std::span(bytes.data(), bytes.size())));
}

void ZipWriter::finish() {
  constexpr uint16_t kMany = 0xFFFF;
  const uint64_t begin = written_, size = directory_.size();
  write(directory_);
  if (is_large(begin) || is_large(size) || count_ >= kMany) write(zip64_end(count_, begin, size));
  std::string end("PK\x05\x06\0\0\0\0", 8);
  const auto count = static_cast<uint16_t>(std::min<uint64_t>(count_, kMany));
  put(end, count);
  put(end, count);
  put(end, in_32_bits(size));
  put(end, in_32_bits(begin));
  put<uint16_t>(end, 0);
  write(end);
}

}  // namespace outrider
