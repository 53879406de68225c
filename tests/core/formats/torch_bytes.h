#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace outrider::test {

/// One entry of a zip file, and what its headers claim where that is not the truth.
struct ZipItem {
  std::string name, data;
  uint16_t flags = 0x0808, method = 0;
  std::optional<uint32_t> crc{}, size{}, packed{}, offset{};
  std::optional<std::string> local_name{};
  std::string extra{};  // of the directory's header
};

/// What the end of a zip file claims.
struct ZipEnd {
  bool zip64 = true;
  std::optional<uint64_t> count{}, begin{}, size{}, count64{}, record{};
  uint16_t disk = 0;
  std::string comment{}, before_end{};
};

/// A zip file laid out as torch.save() lays it out.
std::string zip_bytes(const std::vector<ZipItem>& items, const ZipEnd& end = {});

/// The entries of a file of torch.save() with this pickle and one storage "0" of eight float32.
std::vector<ZipItem> torch_items(std::string pickle);
std::string torch_bytes(std::string pickle);

// Pieces of pickles.
std::string p_text(std::string_view text);
std::string p_int(int32_t value);
/// A file's whole pickle: protocol, `body`, stop.
std::string p_file(std::string_view body);
std::string p_ints(const std::vector<int64_t>& values);  // a tuple
std::string p_storage(std::string_view type, std::string_view key, int64_t count);
std::string p_tensor(std::string_view storage, int64_t offset, const std::vector<int64_t>& shape,
                     const std::vector<int64_t>& strides);

}  // namespace outrider::test
