#pragma once

#include <filesystem>
#include <string>

#include "outrider/api.h"
#include "outrider/checkpoint/safetensors.h"
#include "outrider/model/model_config.h"

namespace outrider {

/// What to give where a model is wanted.
constexpr const char* kModelFolderHint =
    "give the folder of a Hugging Face model, the one with config.json";

/// Throws kFileNotFound unless there is such a folder. The hint names what was probably meant: a
/// folder beside it, one below "~", the folder of a file, a model of the Hugging Face Hub and the
/// command that fetches it; else it is `hint`.
OUTRIDER_API void require_folder(const std::filesystem::path& folder, const std::string& hint);

/// The same for a folder with a tokenizer; beside that, nothing but weights may be a Git LFS
/// pointer (kInvalidFile).
OUTRIDER_API void require_tokenizer_folder(const std::filesystem::path& folder);

/// Throws kInvalidFile where files that a model is read from are Git LFS pointers, naming all.
void require_no_git_lfs_pointers(const std::filesystem::path& folder);

/// Throws kFileNotFound unless the folder has a config.json. The hint names folders below it that
/// have one.
void require_config_file(const std::filesystem::path& folder);

/// The config and the tensors of a model folder.
struct ModelFiles {
  ModelConfig config;
  SafetensorsFolder tensors;
};

/// Opens both and tells in one error everything that is wrong with either, files that are Git LFS
/// pointers first. `read` is read_config() or buildable_config().
OUTRIDER_API ModelFiles read_model_files(const std::filesystem::path& folder,
                                         ModelConfig (*read)(const std::filesystem::path&));

/// read_config() of a model that this process can build; the plugin of its family is loaded.
/// Throws kUnknownArchitecture, or kUnsupported as the family does.
ModelConfig buildable_config(const std::filesystem::path& folder);

}  // namespace outrider
