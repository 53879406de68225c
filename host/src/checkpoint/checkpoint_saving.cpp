#include <ATen/ATen.h>
#include <fmt/format.h>

#include "base_identity.h"
#include "companion_files.h"
#include "machine/disk_room.h"
#include "model_tensors.h"
#include "modelopt_state.h"
#include "outrider/files/atomic_file.h"
#include "outrider/files/json_file.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/version.h"
#include "stored_model.h"
#include "weight_files.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

at::ScalarType type_in_files(const CausalLM& model, const std::string& name,
                             const at::Tensor& tensor) {
  if (!model.stored_types()) return tensor.scalar_type();
  const auto& types = model.stored_types()->tensors;
  const auto found = types.find(name);
  return found == types.end() ? tensor.scalar_type() : found->second;
}

// What is saved is what was stored: values that were widened have the stored type's precision.
TensorMap tensors_to_save(const CausalLM& model, TensorMap tensors) {
  for (auto& [name, tensor] : tensors) {
    tensor = tensor.detach().to(type_in_files(model, name, tensor));
  }
  return tensors;
}

}  // namespace

CheckpointMetadata record_of(const CausalLM& model) {
  CheckpointMetadata metadata;
  metadata.written_by = fmt::format("outrider {}", version());
  metadata.base_model = base_identity(model);
  for (const auto& attached : model.speculative_state()) {
    auto state = attached.state;
    mode_registry()
        .get(state.mode)
        .descriptor->update_for_save(model, state.config, state.metadata);
    metadata.modes.push_back(std::move(state));
  }
  return metadata;
}

void write_record(const CheckpointMetadata& record, const fs::path& folder) {
  record.write(folder);
  if (!record.base_model.contains(kReferenceKey)) write_modelopt_state(folder, record);
}

void save_pretrained(const CausalLM& model, const fs::path& folder, const SaveOptions& options) {
  AtomicDirectory directory(folder, options.replace);
  require_free(folder, "the model", saved_bytes(model, options),
               "free some space, or choose a folder on another disk");
  const auto tensors = model_tensors(model, options.base.has_value());
  write_weights(directory.staging(), tensors_to_save(model, tensors), options.max_shard_size);
  auto config = model.config().raw;
  config.erase("torch_dtype");
  config["dtype"] = dtype_name(model.stored_dtype());
  write_json_file(directory.staging() / "config.json", config);
  if (!model.speculative_state().empty()) {
    auto metadata = record_of(model);
    if (options.base) metadata.base_model[kReferenceKey] = options.base->to_json();
    write_record(metadata, directory.staging());
  }
  copy_companions(options.source, directory.staging());
  if (options.complete) options.complete(directory.staging());
  directory.commit();
}

uint64_t saved_bytes(const CausalLM& model, const SaveOptions& options) {
  uint64_t bytes = companion_bytes(options.source);
  for (const auto& [name, tensor] : model_tensors(model, options.base.has_value())) {
    bytes += static_cast<uint64_t>(tensor.numel()) *
             c10::elementSize(type_in_files(model, name, tensor));
  }
  return bytes;
}

void write_recorded(const RecordedTensors& model, const fs::path& file) {
  const auto state = model.record.to_json();
  CheckpointMetadata::from_json(state, file.string());  // what restore() would refuse
  write_tensors(file, model.tensors, {{kStateKey, state.dump()}});
}

void save(const CausalLM& model, const fs::path& file) {
  write_recorded({record_of(model), tensors_to_save(model, checkpoint_tensors(model))}, file);
}

}  // namespace outrider
