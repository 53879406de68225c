#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "outrider/api.h"
#include "outrider/checkpoint/metadata.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/host/base_reference.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

class ShardedLayers;

/// ModelOpt's record of a conversion in a model folder.
constexpr const char* kModelOptStateFile = "modelopt_state.pth";
/// What `outrider verify` compares a folder with; nothing else reads it.
constexpr const char* kProbeFile = "outrider_probe.json";

struct LoadOptions {
  std::optional<at::ScalarType> dtype;  // default: as stored
  /// The model will run: where the CPU is slow in the stored type it computes in float32, and is
  /// saved in the stored type all the same. `dtype` decides where it is given.
  bool for_computing = false;
  /// Of a base that computes in another type than it is stored in: keeps it as it is stored and
  /// widens each parameter at its use, also where there is memory for more. For decoding, which is
  /// limited by reading parameters.
  bool widen_at_use = false;
  /// "0.47" or "0.42": the release as which a checkpoint of ModelOpt's computes, whatever it says.
  std::optional<std::string> reference_numerics;
  at::Device device = at::kCPU;
  std::filesystem::path base;  // of a folder that holds drafts only; default: where it says
  /// Keeps the decoder layers, which the model then does not; empty: the model holds all.
  std::shared_ptr<ShardedLayers> layers;
  bool check_base = true;     // hash the base of a folder that holds drafts only
  bool hash_weights = false;  // for CausalLM::weights_sha256(), where the folder does not record it
  /// Called with what the user should know: where the tensors counted instead of config.json.
  std::function<void(const std::string&)> on_note;
};

/// What a folder records of its conversions, nothing for a base model: from outrider_state.json, or
/// without that from ModelOpt's modelopt_state.pth (`numerics`: LoadOptions::reference_numerics).
OUTRIDER_API CheckpointMetadata read_metadata(const std::filesystem::path& folder,
                                              const std::optional<std::string>& numerics = {});

/// The base's config.json, without what ModelOpt's conversion changes in it.
OUTRIDER_API ModelConfig read_config(const std::filesystem::path& folder);

/// A base model folder, or a converted one: then its plugins are found and its drafts rebuilt
/// before tensors are loaded. A folder that holds drafts only takes the other weights from its
/// base's folder, once their hash is found to be the recorded one (kFileNotFound,
/// kIncompatibleCheckpoint). Loading is strict: missing, unexpected and mis-shaped tensors are
/// reported together (kTensorMismatch).
OUTRIDER_API std::shared_ptr<CausalLM> from_pretrained(const std::filesystem::path& folder,
                                                       const LoadOptions& options = {});

/// Attaches to an unconverted base the drafts that a record describes, for a caller that loads
/// their tensors (`stored_bytes` in all) itself. Throws as restore() does, but for tensors.
OUTRIDER_API void rebuild(CausalLM& base, const CheckpointMetadata& record, size_t stored_bytes,
                          const std::string& origin);

/// Replaces parameters and buffers by name; every name must exist with the tensor's shape.
OUTRIDER_API void load_weights(CausalLM& model, const std::filesystem::path& file);

/// Every parameter and buffer under its checkpoint name, tied weights once.
OUTRIDER_API TensorMap checkpoint_tensors(const CausalLM& model);

struct SaveOptions {
  std::filesystem::path source;  // folder whose tokenizer and config files are copied along
  bool replace = false;          // an existing folder may be replaced
  int64_t max_shard_size = 5'000'000'000;  // bytes of tensors in one file
  std::optional<BaseReference> base;       // where given, only the drafts are written
  /// Called with the folder once all of its files are there, before it appears: adds others.
  std::function<void(const std::filesystem::path& folder)> complete = {};
};

/// Writes a Hugging Face folder that plain transformers can load the base from, atomically. Weights
/// above max_shard_size are split into several files with an index. Where ModelOpt would compute
/// the same, modelopt_state.pth is there as well and ModelOpt restores the draft too. Throws
/// kWriteFailed, before anything is written, where the disk has no room.
OUTRIDER_API void save_pretrained(const CausalLM& model, const std::filesystem::path& folder,
                                  const SaveOptions& options);

/// What a checkpoint of the model records of its conversions.
OUTRIDER_API CheckpointMetadata record_of(const CausalLM& model);

/// Writes a record into a folder whose other files its caller writes: outrider_state.json and,
/// where ModelOpt would compute the same, modelopt_state.pth.
OUTRIDER_API void write_record(const CheckpointMetadata& record,
                               const std::filesystem::path& folder);

/// The bytes that save_pretrained() would write, to within small files.
OUTRIDER_API uint64_t saved_bytes(const CausalLM& model, const SaveOptions& options);

/// Writes all tensors, and the content of outrider_state.json as metadata, into one safetensors
/// file, atomically; an existing one is replaced.
OUTRIDER_API void save(const CausalLM& model, const std::filesystem::path& file);

/// A record with its tensors, whoever owns them.
struct RecordedTensors {
  CheckpointMetadata record;
  TensorMap tensors;
};

/// The file that save() writes of a model.
OUTRIDER_API void write_recorded(const RecordedTensors& model, const std::filesystem::path& file);

/// What restore() accepts. Throws kNotConverted where nothing is recorded.
OUTRIDER_API RecordedTensors read_recorded(const std::filesystem::path& file_or_folder,
                                           const std::optional<std::string>& numerics = {});

/// Rebuilds on an unconverted base what save() or save_pretrained() wrote, or ModelOpt's
/// counterparts of both (`numerics`: LoadOptions::reference_numerics), as strictly as
/// from_pretrained(); values take the base's type and device. Throws kAlreadyConverted,
/// kIncompatibleCheckpoint for another base, kTensorMismatch; the base is of no use after an error.
OUTRIDER_API void restore(CausalLM& base, const std::filesystem::path& file_or_folder,
                          const std::optional<std::string>& numerics = {});

}  // namespace outrider
