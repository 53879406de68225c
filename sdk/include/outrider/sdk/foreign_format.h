#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "outrider/checkpoint/tensor_io.h"
#include "outrider/json.h"
#include "outrider/model/attached_draft.h"
#include "outrider/model/base_view.h"

namespace outrider {

/// What a writer may read: the base, the attached draft of its mode, and what the user asked for.
struct ExportContext {
  const BaseView& model;
  const AttachedDraft& draft;
  std::string base_name = {};  // how the file shall name the base, where it does; may be empty
  /// The user's word that a draft may be served with other arithmetic than it was trained with.
  bool allow_train_serve_mismatch = false;
};

/// A draft as a reader found it. The host builds it from `config`, as a conversion does, and then
/// demands that `tensors` are exactly the draft's.
struct ImportedDraft {
  Json config, metadata;  // metadata: "reference_numerics", where the files say them
  TensorMap tensors;      // under Outrider's names
  TensorMap base_copies;  // "embed_tokens.weight", "lm_head.weight": must equal the base's
  /// What the files say of the base they belong to: "hidden_size", "vocab_size", …
  Json base = Json::object();
  /// What the reader found wrong with the tensors; the host names it together with the rest.
  std::vector<std::string> problems;
  /// The file's name of a tensor that Outrider calls so, for messages; empty: the same.
  std::function<std::string(const std::string&)> file_name;
  /// What the user should know, given the metadata that the conversion recorded: what was assumed,
  /// and where the tensors counted instead of the config. Empty: nothing.
  std::function<std::vector<std::string>(const Json& metadata)> notes;
};

/// Export to and import from another project's files. A missing function means: not supported.
struct ForeignFormat {
  std::string name, description;
  /// Whether a folder that has a config.json looks like this format.
  std::function<bool(const std::filesystem::path&)> probe;
  /// Writes files into an existing empty folder.
  std::function<void(const ExportContext&, const std::filesystem::path&)> write;
  std::function<ImportedDraft(const std::filesystem::path&)> read;
};

}  // namespace outrider
