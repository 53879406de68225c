#include "torch_bytes.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "checkpoint/torch/crc32.h"

namespace outrider::test {
namespace {

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

uint32_t checksum(std::string_view text) {
  return crc32(std::as_bytes(std::span(text.data(), text.size())));
}

void put_local(std::string& out, const ZipItem& item) {
  const auto name = item.local_name.value_or(item.name);
  const bool follows = (item.flags & 8) != 0;
  const auto size = item.size.value_or(item.data.size());
  out += "PK\x03\x04";
  put<uint16_t>(out, 0);
  put(out, item.flags);
  put(out, item.method);
  put<uint32_t>(out, 0);
  put<uint32_t>(out, follows ? 0 : item.crc.value_or(checksum(item.data)));
  put<uint32_t>(out, follows ? 0 : size);
  put<uint32_t>(out, follows ? 0 : size);
  put<uint16_t>(out, name.size());
  put<uint16_t>(out, 0);
  out += name;
  out += item.data;
}

void put_central(std::string& out, const ZipItem& item, size_t offset) {
  const auto size = item.size.value_or(item.data.size());
  out += "PK\x01\x02";
  put<uint32_t>(out, 0);
  put(out, item.flags);
  put(out, item.method);
  put<uint32_t>(out, 0);
  put(out, item.crc.value_or(checksum(item.data)));
  put<uint32_t>(out, item.packed.value_or(size));
  put<uint32_t>(out, size);
  put<uint16_t>(out, item.name.size());
  put<uint16_t>(out, item.extra.size());
  out.append(10, '\0');
  put<uint32_t>(out, item.offset.value_or(offset));
  out += item.name;
  out += item.extra;
}

void put_zip64_end(std::string& out, const ZipEnd& end, uint64_t count, uint64_t size,
                   uint64_t begin) {
  const uint64_t record = end.record.value_or(out.size());
  out += "PK\x06\x06";
  put<uint64_t>(out, 44);
  put<uint32_t>(out, 0);
  put<uint64_t>(out, 0);
  put(out, end.count64.value_or(count));
  put(out, end.count64.value_or(count));
  put(out, size);
  put(out, begin);
  out += "PK\x06\x07";
  put<uint32_t>(out, 0);
  put(out, record);
  put<uint32_t>(out, 1);
}

}  // namespace

std::string zip_bytes(const std::vector<ZipItem>& items, const ZipEnd& end) {
  std::string out, directory;
  for (const auto& item : items) {
    put_central(directory, item, out.size());
    put_local(out, item);
  }
  const uint64_t begin = end.begin.value_or(out.size());
  const uint64_t size = end.size.value_or(directory.size());
  const uint64_t count = end.count.value_or(items.size());
  out += directory;
  if (end.zip64) put_zip64_end(out, end, count, size, begin);
  out += end.before_end;
  out += "PK\x05\x06";
  put(out, end.disk);
  put(out, end.disk);
  put(out, static_cast<uint16_t>(std::min<uint64_t>(count, 0xFFFF)));
  put(out, static_cast<uint16_t>(std::min<uint64_t>(count, 0xFFFF)));
  put(out, static_cast<uint32_t>(size));
  put(out, static_cast<uint32_t>(begin));
  put<uint16_t>(out, end.comment.size());
  return out + end.comment;
}

std::vector<ZipItem> torch_items(std::string pickle) {
  std::string numbers(32, '\0');
  for (int i = 0; i < 8; ++i) {
    const auto value = static_cast<float>(i);
    std::memcpy(numbers.data() + 4 * i, &value, 4);
  }
  return {{"t/data.pkl", std::move(pickle)},
          {"t/byteorder", "little"},
          {"t/data/0", numbers},
          {"t/version", "3\n"}};
}

std::string torch_bytes(std::string pickle) { return zip_bytes(torch_items(std::move(pickle))); }

std::string p_text(std::string_view text) {
  std::string out = "X";
  put(out, static_cast<uint32_t>(text.size()));
  return out.append(text);
}

std::string p_int(int32_t value) {
  std::string out = "J";
  put(out, value);
  return out;
}

std::string p_file(std::string_view body) { return "\x80\x02" + std::string(body) + "."; }

std::string p_ints(const std::vector<int64_t>& values) {
  std::string out = "(";
  for (const int64_t value : values) {
    out += "\x8a\x08";
    put(out, value);
  }
  return out + "t";
}

std::string p_storage(std::string_view type, std::string_view key, int64_t count) {
  std::string out = "(" + p_text("storage") + "ctorch\n" + std::string(type) + "\n" + p_text(key) +
                    p_text("cpu") + "\x8a\x08";
  put(out, count);
  return out + "tQ";
}

std::string p_tensor(std::string_view storage, int64_t offset, const std::vector<int64_t>& shape,
                     const std::vector<int64_t>& strides) {
  std::string out = "ctorch._utils\n_rebuild_tensor_v2\n(" + std::string(storage) + "\x8a\x08";
  put(out, offset);
  return out + p_ints(shape) + p_ints(strides) + "\x89" + "ccollections\nOrderedDict\n)RtR";
}

}  // namespace outrider::test
