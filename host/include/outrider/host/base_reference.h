#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "outrider/api.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// The base that a checkpoint without base weights belongs to: `base_model.reference` in
/// outrider_state.json.
struct OUTRIDER_API BaseReference {
  std::string path;            // of its folder, as it was given
  std::string absolute;        // the same from the root, for whoever works in another folder
  std::string weights_sha256;  // see base_weights_sha256
  /// The same of the base as it was before a conversion changed its type; it serves as well. Empty
  /// where that is not known. It is not part of the reference's JSON but stands beside it.
  std::string original_sha256;

  Json to_json() const;
  /// Throws kInvalidFile about a key that is missing or no string.
  static BaseReference from_json(const Json& json, const std::string& origin);

  /// `given`, or where it is empty the first of `absolute` and `path` that is a folder. Throws
  /// kFileNotFound naming what was looked for.
  std::filesystem::path find(const std::filesystem::path& given) const;
  /// Throws kIncompatibleCheckpoint unless `found_sha256`, of the weights in `folder`, is a
  /// recorded one.
  void require_same(const std::string& found_sha256, const std::filesystem::path& folder) const;
};

/// An identity of weights that depends on no file layout: the SHA-256 over one line for each
/// tensor, "NAME DTYPE SHAPE SHA-256-OF-BYTES", in the order of their names. The same base has the
/// same one whether it is sharded or not and whether drafts lie beside it. Reads every byte.
OUTRIDER_API std::string base_weights_sha256(const TensorMap& weights);

/// The tensors in a folder that a base of this config has: no draft's, and no duplicates or
/// computed buffers of other writers.
OUTRIDER_API std::map<std::string, SafetensorsFolder::Entry> stored_base(
    const std::filesystem::path& folder, const ModelConfig& config);

/// The identity of those, or of tensors that were found already.
OUTRIDER_API std::string stored_sha256(
    const std::map<std::string, SafetensorsFolder::Entry>& stored);
OUTRIDER_API std::string stored_base_sha256(const std::filesystem::path& folder,
                                            const ModelConfig& config);

/// A reference to the base in `folder`, converted or not, with weights or itself with a reference.
OUTRIDER_API BaseReference refer_to_base(const std::filesystem::path& folder);

/// The recorded reference of a folder; nothing where it holds its base or is not converted.
OUTRIDER_API std::optional<BaseReference> base_reference_of(const std::filesystem::path& folder);

}  // namespace outrider
