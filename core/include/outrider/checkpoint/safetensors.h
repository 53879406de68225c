#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "outrider/api.h"

namespace outrider {

class MappedFile;

/// A tensor in a mapped file: row-major, little-endian, `bytes` valid while the file object lives
/// and, in files of other writers, perhaps not aligned.
struct TensorView {
  std::string dtype;  // as in the header: "F32", "BF16", "F16", "F64", "I64", "I32", …, "BOOL"
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Bytes per element of a safetensors dtype, 0 if unknown.
OUTRIDER_API size_t dtype_size(std::string_view dtype);

/// One safetensors file, mapped and checked whole when opened: header at most 100 MB, known dtypes,
/// shapes without overflow, byte ranges that tile the file without holes or overlap.
/// https://huggingface.co/docs/safetensors
class OUTRIDER_API SafetensorsFile {
 public:
  /// Throws kFileNotFound, kFileUnreadable or kInvalidFile (naming file, tensor and reason).
  static std::shared_ptr<const SafetensorsFile> open(const std::filesystem::path& path);
  ~SafetensorsFile();

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  SafetensorsFile() = default;
  void parse();

  std::filesystem::path path_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
  std::shared_ptr<const MappedFile> mapped_;
};

/// All tensors of a checkpoint folder: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` names (which may not point outside the folder).
class OUTRIDER_API SafetensorsFolder {
 public:
  /// A tensor is taken from where it lies, whatever the index says. Throws as SafetensorsFile does,
  /// kFileNotFound for a folder without such files (naming what is there instead), and kInvalidFile
  /// for an index with tensors that lie nowhere, or a tensor in several shards that it does not
  /// decide between.
  static SafetensorsFolder open(const std::filesystem::path& folder);

  struct Entry {
    std::shared_ptr<const SafetensorsFile> file;
    const TensorView* view;
  };
  const std::map<std::string, Entry>& tensors() const { return tensors_; }
  /// What the user should know: where index and shards disagree.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  std::map<std::string, Entry> tensors_;
  std::vector<std::string> notes_;
};

/// Writes one safetensors file atomically; equal arguments give equal bytes. Larger elements come
/// first and tensors of equal ones by name, so that each is aligned to its element. Throws
/// kWriteFailed, or kInvalidArgument for a view whose shape and bytes disagree.
OUTRIDER_API void write_safetensors(const std::filesystem::path& path,
                                    const std::map<std::string, TensorView>& tensors,
                                    const std::map<std::string, std::string>& metadata = {});

}  // namespace outrider
