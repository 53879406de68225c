#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "outrider/problems.h"
#include "outrider/sdk/draft_record.h"
#include "outrider/sdk/foreign_format.h"
#include "vocabulary_maps.h"

namespace outrider::eagle {

/// The files of an exported draft, as they are.
struct DraftFiles {
  std::string origin;  // config.json's path
  Json config;
  TensorMap tensors;  // mapped
  std::optional<DraftRecord> record;
  std::vector<std::string> notes;

  /// model.safetensors, its shards, or, as EAGLE's own drafts come, pytorch_model.bin, of which
  /// nothing is run. Throws as read_json_file, SafetensorsFolder and TorchFile do.
  static DraftFiles read(const std::filesystem::path& folder);
};

/// The config of a folder, for a probe; null where it is no JSON object.
Json probed_config(const std::filesystem::path& folder);
/// Whether the folder's tensors are there and have such a prefix.
bool has_tensor_prefix(const std::filesystem::path& folder, const std::string& prefix);
bool names_architecture(const Json& config, const std::string& architecture);

/// Collects what a config says that Outrider's draft cannot do.
class ConfigProblems {
 public:
  explicit ConfigProblems(std::string origin) : origin_(std::move(origin)) {}
  ConfigProblems& when(bool condition, const std::string& problem);
  /// Throws kUnsupported if there are problems.
  void finish() const;
  /// Throws kTensorMismatch if there are problems: config and tensors leave open what is meant.
  void finish_against_tensors() const;

 private:
  std::string origin_;
  Problems problems_;
};

/// The value of a key that is true or false; `absent` where it is missing or null.
bool flag(const Json& json, const char* key, bool absent, ConfigProblems& problems);
/// A list of layer numbers, each less `offset`, which must be increasing; empty where it is missing
/// or null.
std::vector<int64_t> layer_ids(const Json& json, const char* key, int64_t offset,
                               ConfigProblems& problems);

/// A config that asks for a normed residual in a format whose readers know none.
void check_plain_residual(const Json& config, ConfigProblems& problems);

/// Two spellings of the rotary embedding must mean the same.
void check_rope_spellings(const Json& decoder, ConfigProblems& problems);

/// How one format writes what all of them have.
struct DraftLayout {
  std::string first_layer = "layers.0.";  // what the first layer's names begin with
  MapsInFiles maps = MapsInFiles::kWhenReduced;
  bool has_embedding = false;     // a copy of the base's embedding must be there
  bool head_is_optional = false;  // without one the base's is meant
  std::string layers_key = {};    // what names the layers of the base that are read; empty: nothing
  int64_t layers_offset = 0;      // of its numbers, to those of the layers whose output is read
};

/// What a reader understood of a config.
struct DecoderMeaning {
  Json decoder;                        // keys of Llama's config class
  Json draft_vocab_size;               // null: the whole vocabulary
  Json architecture = Json::object();  // further keys of eagle_architecture_config
  std::vector<int64_t> aux_layer_ids;  // layers whose output is read; empty: not said, the defaults
  std::optional<int64_t> base_width = {};  // hidden size of the base; found in the tensors
};

/// The draft of files whose config means that, with the sizes that its tensors have. A DraftRecord
/// adds what the format has no key for, and gives way wherever the config says something else.
ImportedDraft imported_draft(DraftFiles files, DecoderMeaning meaning, const DraftLayout& layout);

}  // namespace outrider::eagle
