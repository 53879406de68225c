#include "outrider/checkpoint/torch_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <set>
#include <string_view>

#include "byte_cursor.h"
#include "files/mapped_file.h"
#include "outrider/checkpoint/safetensors.h"
#include "pickle_reader.h"
#include "zip_archive.h"

namespace outrider {
namespace {

constexpr std::string_view kPickle = "/data.pkl";

/// The folder inside the archive that everything lies in.
std::string_view folder_of(const ZipArchive& archive, const std::string& origin) {
  const auto& entries = archive.entries();
  if (entries.empty()) throw damaged(origin, "has no zip entries");
  const auto first = entries.begin()->first;
  const auto folder = first.substr(0, first.find('/'));
  for (const auto& [name, entry] : entries) {
    const bool inside =
        name.size() > folder.size() && name.starts_with(folder) && name[folder.size()] == '/';
    if (!inside) throw damaged(origin, "the zip entry " + in_quotes(name, 100) + " stands apart");
  }
  return folder;
}

void check_byte_order(const ZipArchive& archive, std::string_view folder,
                      const std::string& origin) {
  const auto name = fmt::format("{}/byteorder", folder);
  if (!archive.entries().contains(name)) return;  // before torch 2.1
  const auto bytes = archive.read(name);
  const std::string_view order(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (order == "little") return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: its byte order is {}, not 'little'", in_quotes(origin),
                          in_quotes(order, 20)),
              "save it again on a little-endian machine");
}

/// Finds the bytes of tensors, each storage's checked once.
class Storages {
 public:
  Storages(const ZipArchive& archive, std::string_view folder, const std::string& origin)
      : archive_(archive), folder_(folder), origin_(origin) {}

  TorchTensor view(const pickle::Tensor& tensor) {
    const auto bytes = read(tensor.storage);
    const auto element = dtype_size(tensor.storage.dtype);
    if (!fits(tensor)) {
      throw damaged(origin_, fmt::format("a tensor of shape [{}], strides [{}] and offset {} does "
                                         "not fit its storage {} of {} elements",
                                         fmt::join(tensor.shape, ","),
                                         fmt::join(tensor.strides, ","), tensor.offset,
                                         in_quotes(tensor.storage.key, 40), tensor.storage.count));
    }
    return {std::string(tensor.storage.dtype), tensor.shape, tensor.strides,
            bytes.subspan(static_cast<size_t>(tensor.offset) * element)};
  }

 private:
  std::span<const std::byte> read(const pickle::Storage& storage) {
    const auto name = fmt::format("{}/data/{}", folder_, storage.key);
    const auto found = archive_.entries().find(name);
    const bool is_new = found == archive_.entries().end() || checked_.insert(name).second;
    const auto bytes = is_new ? archive_.read(name) : found->second.bytes;
    const auto element = dtype_size(storage.dtype);
    if (storage.count < 0 || static_cast<uint64_t>(storage.count) != bytes.size() / element ||
        bytes.size() % element != 0) {
      throw damaged(origin_, fmt::format("the storage {} has {} bytes, not {} elements of {}",
                                         in_quotes(storage.key, 40), bytes.size(), storage.count,
                                         storage.dtype));
    }
    return bytes;
  }

  /// Whether every element lies in the storage, and no more elements than that has.
  static bool fits(const pickle::Tensor& tensor) {
    const auto count = tensor.storage.count;
    if (tensor.shape.size() != tensor.strides.size()) return false;
    if (tensor.offset < 0 || tensor.offset > count) return false;
    int64_t elements = 1, last = tensor.offset;
    bool is_empty = false;
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      const int64_t size = tensor.shape[i], stride = tensor.strides[i];
      if (size < 0 || stride < 0) return false;
      is_empty |= size == 0;
      int64_t reach = 0;
      // A zero must not hide an overflow of the others.
      if (__builtin_mul_overflow(elements, std::max<int64_t>(size, 1), &elements) ||
          __builtin_mul_overflow(std::max<int64_t>(size, 1) - 1, stride, &reach) ||
          __builtin_add_overflow(last, reach, &last)) {
        return false;
      }
    }
    return is_empty || (elements <= count && last < count);
  }

  const ZipArchive& archive_;
  std::string_view folder_;
  const std::string& origin_;
  std::set<std::string> checked_;
};

}  // namespace

std::shared_ptr<const TorchFile> TorchFile::open(const std::filesystem::path& path) {
  const auto mapped = MappedFile::open(path);
  std::shared_ptr<TorchFile> file(new TorchFile);
  file->owner_ = mapped;
  file->parse(mapped->bytes(), path.string());
  return file;
}

std::shared_ptr<const TorchFile> TorchFile::from_bytes(std::string bytes,
                                                       const std::string& origin) {
  const auto owned = std::make_shared<const std::string>(std::move(bytes));
  std::shared_ptr<TorchFile> file(new TorchFile);
  file->owner_ = owned;
  file->parse(std::as_bytes(std::span(owned->data(), owned->size())), origin);
  return file;
}

void TorchFile::parse(std::span<const std::byte> file, const std::string& origin) {
  const ZipArchive archive(file, origin);
  const auto folder = folder_of(archive, origin);
  check_byte_order(archive, folder, origin);
  auto pickled = pickle::read(archive.read(std::string(folder) + std::string(kPickle)), origin);
  contents_ = std::move(pickled.value);
  Storages storages(archive, folder, origin);
  for (const auto& tensor : pickled.tensors) tensors_.push_back(storages.view(tensor));
}

const TorchTensor* TorchFile::tensor(const Json& place) const {
  if (!place.is_binary()) return nullptr;
  const auto index = place.get_binary().subtype();
  return index < tensors_.size() ? &tensors_[index] : nullptr;
}

}  // namespace outrider
