#include "outrider/checkpoint/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <ostream>
#include <string_view>
#include <utility>

#include "checkpoint/torch/byte_cursor.h"
#include "files/mapped_file.h"
#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/files/json_file.h"
#include "outrider/text.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr size_t kLengthBytes = 8;
constexpr size_t kLongestHeader = 100'000'000;
constexpr int kDeepestHeader = 8;
constexpr size_t kMostDimensions = 64;
constexpr const char* kMetadataKey = "__metadata__";
constexpr std::pair<std::string_view, size_t> kDtypes[] = {
    {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
    {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
    {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};

std::string known_dtypes() {
  std::vector<std::string> names;
  for (const auto& [name, size] : kDtypes) names.emplace_back(name);
  return join(names, ", ");
}

/// The bytes of a tensor; `problem` says why there is no such number.
size_t byte_count(std::string_view dtype, const std::vector<int64_t>& shape, std::string& problem) {
  const size_t element = dtype_size(dtype);
  if (element == 0) {
    problem = fmt::format("has the dtype {}; known are {}", in_quotes(dtype, 40), known_dtypes());
    return 0;
  }
  // A zero must not hide an overflow: strides are products over the other dimensions.
  size_t bytes = element;
  bool is_empty = false;
  for (const int64_t size : shape) {
    is_empty |= size == 0;
    const auto factor = static_cast<size_t>(std::max<int64_t>(size, 1));
    if (size < 0 || __builtin_mul_overflow(bytes, factor, &bytes) ||
        bytes > static_cast<size_t>(std::numeric_limits<int64_t>::max())) {
      problem = fmt::format("has the impossible shape [{}]", fmt::join(shape, ", "));
      return 0;
    }
  }
  return is_empty ? 0 : bytes;
}

// --- reading -----------------------------------------------------------------------------------

/// Half-open, counted from the first byte after the header.
struct ByteRange {
  size_t begin = 0, end = 0;
  const std::string* tensor = nullptr;
};

/// Checks one file's header against the length of its data.
class HeaderReader {
 public:
  HeaderReader(const fs::path& path, std::span<const std::byte> data) : path_(path), data_(data) {}

  TensorView read_tensor(const std::string& name, const Json& entry) {
    if (!entry.is_object()) fail(name, "is not described by an object");
    TensorView view;
    view.dtype = read_dtype(name, entry);
    view.shape = read_shape(name, entry);
    const auto range = read_range(name, entry);
    std::string problem;
    const size_t expected = byte_count(view.dtype, view.shape, problem);
    if (!problem.empty()) fail(name, problem);
    if (range.end - range.begin != expected) {
      fail(name,
           fmt::format("takes {} bytes, but {} of shape [{}] needs {}", range.end - range.begin,
                       view.dtype, fmt::join(view.shape, ", "), expected));
    }
    view.bytes = data_.subspan(range.begin, expected);
    ranges_.push_back(range);
    return view;
  }

  /// The ranges must cover the data from its first byte to its last, each byte once.
  void check_tiling() {
    std::sort(ranges_.begin(), ranges_.end(), [](const ByteRange& a, const ByteRange& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    size_t covered = 0;
    for (const auto& range : ranges_) {
      if (range.begin != covered) {
        fail(*range.tensor,
             fmt::format("begins at data byte {}, but the tensors before it end at "
                         "{}: {}",
                         range.begin, covered, range.begin > covered ? "a hole" : "an overlap"));
      }
      covered = range.end;
    }
    if (covered != data_.size()) {
      throw damaged(path_.string(),
                    fmt::format("{} bytes follow the last tensor", data_.size() - covered));
    }
  }

 private:
  [[noreturn]] void fail(const std::string& name, const std::string& reason) const {
    throw damaged(path_.string(), "tensor " + in_quotes(name, 200) + " " + reason);
  }

  const Json& member(const std::string& name, const Json& entry, const char* key) const {
    const auto found = entry.find(key);
    if (found == entry.end()) fail(name, fmt::format("has no {}", key));
    return *found;
  }

  std::string read_dtype(const std::string& name, const Json& entry) const {
    const Json& dtype = member(name, entry, "dtype");
    if (!dtype.is_string()) fail(name, "has a dtype that is not a string");
    return dtype.get<std::string>();
  }

  std::vector<int64_t> read_shape(const std::string& name, const Json& entry) const {
    const Json& shape = member(name, entry, "shape");
    if (!shape.is_array() || shape.size() > kMostDimensions) {
      fail(name,
           fmt::format("has a shape that is not a list of at most {} sizes", kMostDimensions));
    }
    std::vector<int64_t> sizes;
    for (const auto& size : shape) {
      if (!size.is_number_unsigned() ||
          size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        fail(name, "has a shape with " + printable(size.dump(), 40) +
                       "; sizes are integers that are not negative");
      }
      sizes.push_back(size.get<int64_t>());
    }
    return sizes;
  }

  ByteRange read_range(const std::string& name, const Json& entry) const {
    const Json& offsets = member(name, entry, "data_offsets");
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned()) {
      fail(name, "has data_offsets that are not two integers");
    }
    const ByteRange range{offsets[0].get<size_t>(), offsets[1].get<size_t>(), &name};
    if (range.begin > range.end || range.end > data_.size()) {
      fail(name, fmt::format("lies at data bytes {} to {}, outside of the {} that the file holds",
                             range.begin, range.end, data_.size()));
    }
    return range;
  }

  const fs::path& path_;
  std::span<const std::byte> data_;
  std::vector<ByteRange> ranges_;
};

std::string_view header_text(const fs::path& path, std::span<const std::byte> file) {
  if (file.size() < kLengthBytes) throw damaged(path.string(), "too short for a safetensors file");
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length > kLongestHeader) {
    throw damaged(path.string(), fmt::format("its header claims {} bytes; at most {} are accepted",
                                             length, kLongestHeader));
  }
  if (length > file.size() - kLengthBytes) {
    throw damaged(path.string(), fmt::format("its header claims {} bytes, but only {} follow",
                                             length, file.size() - kLengthBytes));
  }
  const auto bytes = file.subspan(kLengthBytes, length);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!text.starts_with('{')) throw damaged(path.string(), "its header does not begin with '{'");
  return text;
}

std::map<std::string, std::string> read_metadata(const fs::path& path, const Json& json) {
  if (!json.is_object()) throw damaged(path.string(), "its __metadata__ is not an object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) {
      throw damaged(path.string(), "its __metadata__ has no string for " + in_quotes(key, 200));
    }
    metadata.emplace(key, value.get<std::string>());
  }
  return metadata;
}

// --- writing -----------------------------------------------------------------------------------

using NamedView = std::pair<const std::string, TensorView>;

/// Larger elements first, so that every tensor is aligned to its element; by name among equals.
std::vector<const NamedView*> in_file_order(const std::map<std::string, TensorView>& tensors) {
  std::vector<const NamedView*> order;
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const NamedView* a, const NamedView* b) {
    return dtype_size(a->second.dtype) > dtype_size(b->second.dtype);
  });
  return order;
}

[[noreturn]] void refuse(const fs::path& path, const std::string& reason) {
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("cannot write {}: {}", in_quotes(path.string()), reason));
}

void check_writable(const fs::path& path, const std::string& name, const TensorView& view) {
  std::string problem;
  const size_t expected = byte_count(view.dtype, view.shape, problem);
  if (name == kMetadataKey) problem = "has a reserved name";
  if (view.shape.size() > kMostDimensions) {
    problem = fmt::format("has more than {} dimensions", kMostDimensions);
  }
  if (problem.empty() && view.bytes.size() != expected) {
    problem = fmt::format("has {} bytes, but {} of shape [{}] needs {}", view.bytes.size(),
                          view.dtype, fmt::join(view.shape, ", "), expected);
  }
  if (!problem.empty()) refuse(path, "tensor " + in_quotes(name, 200) + " " + problem);
}

/// Padded with blanks, so that the data begins at a multiple of eight bytes.
std::string make_header(const fs::path& path, const std::vector<const NamedView*>& order,
                        const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  size_t begin = 0;
  for (const auto* tensor : order) {
    const auto& [name, view] = *tensor;
    check_writable(path, name, view);
    header[name] = {{"dtype", view.dtype},
                    {"shape", view.shape},
                    {"data_offsets", {begin, begin + view.bytes.size()}}};
    begin += view.bytes.size();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::type_error&) {
    refuse(path, "a name or a metadata text is not UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kLongestHeader) refuse(path, "its header would exceed 100 MB");
  return text;
}

}  // namespace

size_t dtype_size(std::string_view dtype) {
  const auto* found = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                   [dtype](const auto& known) { return known.first == dtype; });
  return found == std::end(kDtypes) ? 0 : found->second;
}

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = path;
  file->mapped_ = MappedFile::open(path);
  file->parse();
  return file;
}

SafetensorsFile::~SafetensorsFile() = default;

void SafetensorsFile::parse() {
  const auto file = mapped_->bytes();
  if (file.empty()) throw damaged(path_.string(), "the file is empty");
  const auto text = header_text(path_, file);
  const Json header = parse_json(text, path_.string() + " (header)",
                                 {.bytes = kLongestHeader, .depth = kDeepestHeader});
  HeaderReader reader(path_, file.subspan(kLengthBytes + text.size()));
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) {
      metadata_ = read_metadata(path_, entry);
    } else {
      tensors_.emplace(name, reader.read_tensor(name, entry));
    }
  }
  reader.check_tiling();
}

void write_safetensors(const std::filesystem::path& path,
                       const std::map<std::string, TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  const auto order = in_file_order(tensors);
  const std::string header = make_header(path, order, metadata);
  const uint64_t length = header.size();
  write_file_atomically(path, [&](std::ostream& out) {
    out.write(reinterpret_cast<const char*>(&length), kLengthBytes);
    out << header;
    for (const auto* tensor : order) {
      const auto& bytes = tensor->second.bytes;
      out.write(reinterpret_cast<const char*>(bytes.data()),
                static_cast<std::streamsize>(bytes.size()));
    }
  });
}

}  // namespace outrider
