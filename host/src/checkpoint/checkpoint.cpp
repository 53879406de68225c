#include "outrider/host/checkpoint.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "base_identity.h"
#include "convert/allocation_budget.h"
#include "convert/random_scope.h"
#include "distributed/sharded_layers.h"
#include "machine/cpu_arithmetic.h"
#include "machine/memory.h"
#include "model_folder.h"
#include "model_tensors.h"
#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/model/base_model_registry.h"
#include "outrider/text.h"
#include "stored_model.h"
#include "strict_load.h"
#include "tensor_mismatches.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

constexpr const char* kLmHead = "lm_head.weight";
constexpr const char* kUntiedHint =
    "config.json says that the head is not the embedding: if it is, set tie_word_embeddings to "
    "true "
    "there; else fetch the tensors that are missing";

constexpr const char* kOtherBaseHint = "restore onto the base model that was converted";

// Writers of other projects store a tied head a second time, and buffers that are computed.
bool may_be_ignored(const CausalLM& model, const std::string& name) {
  return (model.config().tie_word_embeddings && name == kLmHead) ||
         name.ends_with(".rotary_emb.inv_freq");
}

// Where tensors do not fit a config.json; without a quantization_config in it, their names tell.
std::string hint_for_misfits(const StoredTensors& stored) {
  for (const auto& [name, tensor] : stored) {
    for (const char* ending :
         {".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".weight.absmax"}) {
      if (!name.ends_with(ending)) continue;
      return fmt::format(
          "{} is a tensor of a quantised model, which no base may be: take the "
          "release that this one was made from",
          in_quotes(name, 200));
    }
  }
  return "is the folder complete, and does its config.json belong to these tensors?";
}

std::map<std::string, double> parameter_sizes(const CausalLM& model) {
  std::map<std::string, double> sizes;
  for (const auto& item : model.named_parameters()) {
    sizes[item.key()] = static_cast<double>(item.value().numel());
  }
  return sizes;
}

/// Which part of a base a folder holds.
struct StoredPart {
  bool is_offline;   // without decoder layers, as only a conversion for offline training has it
  double described;  // elements that config.json describes for this part
};

/// Takes the decoder layers from `structure`.
StoredPart stored_part(CausalLM& structure, const StoredTensors& stored, bool is_converted) {
  const auto all = parameter_sizes(structure);
  structure.drop_decoder_layers();
  const auto kept = parameter_sizes(structure);
  const bool has_layers = std::ranges::any_of(all, [&](const auto& item) {
    return !kept.contains(item.first) && stored.contains(item.first);
  });
  StoredPart part{is_converted && !has_layers, 0};
  for (const auto& [name, size] : part.is_offline ? kept : all) part.described += size;
  return part;
}

// A config.json with wrong sizes must not take the machine's memory before its tensors are missed.
void check_size(double described, const StoredTensors& stored, const fs::path& folder) {
  double held = 0;
  for (const auto& [name, tensor] : stored) held += tensor.elements;
  if (described <= 2 * held) return;
  throw Error(ErrorCode::kTensorMismatch,
              fmt::format("{}: config.json describes {:.0f} parameters, the tensors hold {:.0f}",
                          folder.string(), described, held),
              hint_for_misfits(stored));
}

/// Fills `targets`, which are tensors of `model`, and `layers`, which may keep some of it.
void load_model(const CausalLM& model, const TensorMap& targets, const StoredTensors& stored,
                const fs::path& origin, const std::string& hint, ShardedLayers* layers = nullptr) {
  TensorMismatches mismatches([&](const std::string& name, const at::Tensor& value) {
    if (!layers || !layers->holds(name)) return false;
    layers->keep(name, value);
    return true;
  });
  load_strictly(
      targets, stored, [&](const std::string& name) { return may_be_ignored(model, name); },
      std::identity(), mismatches);
  const bool lacks_head = targets.contains(kLmHead) && !stored.contains(kLmHead);
  mismatches.finish(origin.string(), lacks_head ? kUntiedHint : hint);
}

PluginRequirement requirement_of(const PluginRef& plugin) {
  return {plugin.name, plugin.range, plugin.sha256};
}

// A draft whose recorded config is larger than its tensors is refused before it takes the memory.
Conversion restored_within(size_t stored_bytes, const ModeDescriptor& mode, const BaseInfo& base,
                           const Json& config, const Json& metadata) {
  constexpr size_t kSlack = 64 << 20;
  const RandomScope random(0);  // drafts draw initial values, which the stored ones replace
  const AllocationBudget budget(
      4 * stored_bytes + kSlack,
      Error(ErrorCode::kTensorMismatch,
            fmt::format("mode '{}': the recorded config describes a draft far larger than the "
                        "tensors in the checkpoint",
                        mode.name()),
            "outrider_state.json was changed, or belongs to other tensors"));
  return mode.restore(base, config, metadata);
}

// ModelOpt records what was asked for; from here on the state says what that came to.
void record_as_own(ModeState& state, const PluginInfo& plugin, const Conversion& conversion) {
  state.plugin = plugin.reference();
  for (const auto& [key, value] : conversion.metadata.items()) state.metadata.emplace(key, value);
}

void restore_mode(CausalLM& model, const ModeState& state, size_t stored_bytes) {
  const auto& plugin = plugin_loader().load(requirement_of(state.plugin));
  const auto& mode = mode_registry().get(state.mode);
  if (mode.plugin.name != plugin.name) {
    throw Error(ErrorCode::kIncompatibleCheckpoint,
                fmt::format("mode '{}' comes from plugin '{}' here, from '{}' in the checkpoint",
                            state.mode, mode.plugin.name, state.plugin.name));
  }
  const auto& schema = mode.descriptor->config_schema();
  auto config = state.config;
  if (state.config_version != schema.version()) {
    config = mode.descriptor->upgrade_config(std::move(config), state.config_version);
  }
  auto conversion = restored_within(stored_bytes, *mode.descriptor, model.base_info(),
                                    schema.resolve(config), state.metadata);
  auto restored = state;
  if (state.plugin.version.empty()) record_as_own(restored, mode.plugin, conversion);
  restored.config = conversion.config;
  restored.config_version = schema.version();
  model.attach(conversion, std::move(restored));
}

void restore_modes(CausalLM& model, const CheckpointMetadata& record, size_t stored_bytes) {
  load_required_plugins(record);
  for (const auto& state : record.modes) restore_mode(model, state, stored_bytes);
}

void require_same_base(const CausalLM& base, const CheckpointMetadata& record,
                       const fs::path& origin) {
  if (!base.speculative_state().empty()) {
    throw Error(
        ErrorCode::kAlreadyConverted,
        fmt::format("the model already has mode '{}'", base.speculative_state().front().state.mode),
        "restore onto the base model, as it was before conversion");
  }
  check_base(base, record.base_model, origin, kOtherBaseHint);
}

// Of what is stored, what this model has, in place.
TensorMap stored_values(const CausalLM& model, const StoredTensors& stored) {
  TensorMap values;
  for (const auto& [name, unused] : checkpoint_tensors(model)) {
    const auto found = stored.find(name);
    if (found != stored.end()) values[name] = found->second.load();
  }
  return values;
}

void identify_base(CausalLM& base, const CheckpointMetadata& metadata, const StoredTensors& stored,
                   bool hash_if_unknown) {
  const auto recorded = metadata.base_model.value(kWeightsKey, Json());
  if (recorded.is_string()) {
    base.set_weights_sha256(recorded.get<std::string>());
  } else if (hash_if_unknown) {
    base.set_weights_sha256(base_weights_sha256(stored_values(base, stored)));
  }
}

struct Precision {
  at::ScalarType stored, computing;
  bool is_widened() const { return stored != computing; }
};

Precision precision_of(const ModelConfig& config, const LoadOptions& options) {
  if (options.dtype) return {options.widen_at_use ? config.dtype : *options.dtype, *options.dtype};
  if (!options.for_computing) return {config.dtype, config.dtype};
  return {config.dtype, computing_type(config.dtype, options.device)};
}

// Half of what is free is left to activations, gradients and the optimizer.
bool fits_widened(const StoredTensors& stored, at::ScalarType type) {
  double elements = 0;
  for (const auto& [name, tensor] : stored) elements += tensor.elements;
  return elements * static_cast<double>(c10::elementSize(type)) <
         0.5 * static_cast<double>(available_memory());
}

/// The base's structure with uninitialised parameters: widened once where memory allows, else as
/// stored and widened at each use.
std::shared_ptr<CausalLM> create_base(const ModelConfig& config, const StoredTensors& stored,
                                      const Precision& precision, at::Device device,
                                      bool widen_at_use) {
  auto& registry = BaseModelRegistry::instance();
  const auto options = at::TensorOptions().device(device);
  if (precision.is_widened() && (widen_at_use || !fits_widened(stored, precision.computing))) {
    auto model = registry.create(config, options.dtype(precision.stored));
    if (model->compute_in(precision.computing)) return model;
  }
  return registry.create(config, options.dtype(precision.computing));
}

// The types that tensors would have without widening, where they differ: a base has the model's,
// whatever its files have; a draft may have some of its own.
std::map<std::string, at::ScalarType> types_of_widened(const CausalLM& model,
                                                       const StoredTensors& stored,
                                                       at::ScalarType model_type) {
  std::map<std::string, at::ScalarType> types;
  for (const auto& [name, tensor] : checkpoint_tensors(model)) {
    auto type = stored.at(name).load().scalar_type();
    if (at::isFloatingType(type) && !belongs_to_a_draft(model, name)) type = model_type;
    if (type != tensor.scalar_type()) types[name] = type;
  }
  return types;
}

// The values are those of the narrower type too: a base may lie there in more precision.
void keep_stored_types(CausalLM& model, const StoredTensors& stored, at::ScalarType model_type,
                       const ShardedLayers* layers) {
  model.set_stored_types({model_type, types_of_widened(model, stored, model_type)});
  const at::NoGradGuard no_grad;
  const auto tensors = checkpoint_tensors(model);
  for (const auto& [name, type] : model.stored_types()->tensors) {
    if (layers && layers->holds(name)) continue;
    tensors.at(name).copy_(tensors.at(name).to(type));
  }
}

}  // namespace

std::shared_ptr<CausalLM> from_pretrained(const fs::path& path, const LoadOptions& options) {
  const auto folder =
      ModelFolder::open(path, OpenFor::kBuilding, options.reference_numerics, options.on_note);
  const auto& metadata = folder.metadata;
  const auto stored = folder.stored_with_base(options.base, options.check_base);
  const auto part = stored_part(*folder.structure, stored, !metadata.modes.empty());
  check_size(part.described, stored, path);
  const auto precision = precision_of(folder.config, options);
  // Layers that are about to be dropped take no memory on the host as long as nothing is written.
  const bool gives_layers_away = part.is_offline || options.layers;
  const auto model =
      create_base(folder.config, stored, precision, gives_layers_away ? at::kCPU : options.device,
                  options.widen_at_use);
  if (options.layers) options.layers->take(*model, options.device);
  model->eval();
  identify_base(*model, metadata, stored, options.hash_weights);
  check_base(*model, metadata.base_model, path,
             "config.json was replaced after the conversion: put the original back");
  const auto stored_bytes = total_bytes(stored);
  for (const auto& state : metadata.modes) restore_mode(*model, state, stored_bytes);
  if (part.is_offline) model->to(options.device);
  auto* layers = options.layers.get();
  load_model(*model, checkpoint_tensors(*model), stored, path, hint_for_misfits(stored), layers);
  if (precision.is_widened()) keep_stored_types(*model, stored, precision.stored, layers);
  return model;
}

void load_weights(CausalLM& model, const fs::path& file) {
  TensorMismatches mismatches;
  auto targets = checkpoint_tensors(model);
  for (const auto& [name, tensor] : read_tensors(file)) {
    const auto found = targets.find(name);
    if (found == targets.end()) {
      mismatches.add("unknown name", name);
    } else {
      mismatches.copy(found->second, tensor, name);
      if (!belongs_to_a_draft(model, name)) model.set_weights_sha256("");
    }
  }
  mismatches.finish(file.string(), "`outrider inspect` lists the model's tensors");
}

void rebuild(CausalLM& base, const CheckpointMetadata& record, size_t stored_bytes,
             const std::string& origin) {
  require_same_base(base, record, origin);
  restore_modes(base, record, stored_bytes);
}

RecordedTensors read_recorded(const fs::path& file_or_folder,
                              const std::optional<std::string>& numerics) {
  auto stored = StoredModel::read(file_or_folder, numerics);
  RecordedTensors recorded{std::move(stored.metadata), {}};
  for (const auto& [name, tensor] : stored.tensors) recorded.tensors[name] = tensor.load();
  return recorded;
}

void restore(CausalLM& base, const fs::path& file_or_folder,
             const std::optional<std::string>& numerics) {
  const auto stored = StoredModel::read(file_or_folder, numerics);
  require_same_base(base, stored.metadata, file_or_folder);
  const auto reference = recorded_reference(stored.metadata, file_or_folder);
  if (reference) {
    reference->require_same(base_weights_sha256(checkpoint_tensors(base)), "the given base");
  }
  restore_modes(base, stored.metadata, total_bytes(stored.tensors));
  load_model(base, model_tensors(base, reference.has_value()), stored.tensors, file_or_folder,
             kOtherBaseHint);
  if (!reference) identify_base(base, stored.metadata, stored.tensors, /*hash_if_unknown=*/false);
}

}  // namespace outrider
