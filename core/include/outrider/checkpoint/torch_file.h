#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// A tensor in a file of torch.save().
struct TorchTensor {
  std::string dtype;                    // as safetensors names it: "F32", "BF16", "I64", …
  std::vector<int64_t> shape, strides;  // strides in elements, none negative
  /// From the first element to the end of its storage, little-endian; every element lies in it.
  std::span<const std::byte> bytes;
};

/// What a file of torch.save() holds, read without running any of it: the zip format with a pickle
/// of protocol 2 that holds plain data, state dicts and tensors. Reading is bounded: at most 16 MB
/// of pickle, a million values, 64 levels, and no value that contains itself.
class OUTRIDER_API TorchFile {
 public:
  /// Throws kFileNotFound, kFileUnreadable; kUnsafeFile for a pickle that asks for any other Python
  /// object, naming it; kInvalidFile for everything else that such a file does not have.
  static std::shared_ptr<const TorchFile> open(const std::filesystem::path& path);
  /// The same for bytes that came from `origin` (used in messages only).
  static std::shared_ptr<const TorchFile> from_bytes(std::string bytes, const std::string& origin);

  /// Dicts are objects, lists and tuples arrays; tensor() finds the tensors in it.
  const Json& contents() const { return contents_; }
  /// The tensor that stands in this place of contents(), or null where it is something else.
  const TorchTensor* tensor(const Json& place) const;

 private:
  TorchFile() = default;
  void parse(std::span<const std::byte> file, const std::string& origin);

  std::shared_ptr<const void> owner_;  // of the bytes
  Json contents_;
  std::vector<TorchTensor> tensors_;
};

/// Writes plain data in the format of torch.save(), atomically, so that torch.load() accepts it
/// with weights_only=True; equal arguments give equal bytes. Lists for which `is_tuple` holds
/// become tuples. Throws kWriteFailed, or kInvalidArgument for text that is not UTF-8 and numbers
/// that are not finite.
OUTRIDER_API void write_torch_file(const std::filesystem::path& path, const Json& value,
                                   const std::function<bool(const Json& list)>& is_tuple = {});

}  // namespace outrider
