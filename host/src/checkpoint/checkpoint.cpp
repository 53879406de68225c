#include "outrider/host/checkpoint.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "companion_files.h"
#include "convert/allocation_budget.h"
#include "convert/random_scope.h"
#include "machine/cpu_arithmetic.h"
#include "machine/disk_room.h"
#include "machine/memory.h"
#include "model_folder.h"
#include "modelopt_state.h"
#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/files/json_file.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/host/sha256.h"
#include "outrider/model/base_model_registry.h"
#include "outrider/text.h"
#include "outrider/version.h"
#include "settled_config.h"
#include "stored_model.h"
#include "tensor_mismatches.h"
#include "weight_files.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

// In outrider_state.json's base_model; see CausalLM::weights_sha256().
constexpr const char* kWeightsKey = "weights_sha256";
// There, too, where the folder holds drafts alone.
constexpr const char* kReferenceKey = "reference";

constexpr const char* kLmHead = "lm_head.weight";
constexpr const char* kUntiedHint =
    "config.json says that the head is not the embedding: if it is, set tie_word_embeddings to "
    "true "
    "there; else fetch the tensors that are missing";

// Writers of other projects store a tied head a second time, and buffers that are computed.
bool may_be_ignored(const CausalLM& model, const std::string& name) {
  return (model.config().tie_word_embeddings && name == kLmHead) ||
         name.ends_with(".rotary_emb.inv_freq");
}

bool belongs_to_a_draft(const CausalLM& model, const std::string& name) {
  return std::ranges::any_of(model.speculative_state(), [&](const AttachedDraft& attached) {
    return name.starts_with(attached.attribute + ".");
  });
}

// A converted folder without decoder layers, which only offline training makes.
bool is_offline(const ModelConfig& config, const StoredTensors& stored,
                const CheckpointMetadata& metadata) {
  if (metadata.modes.empty()) return false;
  const auto shapes = BaseModelRegistry::instance().create(config, at::kMeta);
  const auto all = shapes->named_parameters();
  shapes->drop_decoder_layers();
  const auto kept = shapes->named_parameters();
  return std::none_of(all.begin(), all.end(), [&](const auto& item) {
    return !kept.contains(item.key()) && stored.contains(item.key());
  });
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

// A config.json with wrong sizes must not take the machine's memory before its tensors are missed.
void check_size(const ModelConfig& config, const StoredTensors& stored, bool offline,
                const fs::path& folder) {
  double described = 0, held = 0;
  const auto shapes = BaseModelRegistry::instance().create(config, at::kMeta);
  if (offline) shapes->drop_decoder_layers();
  for (const auto& parameter : shapes->parameters()) {
    described += static_cast<double>(parameter.numel());
  }
  for (const auto& [name, tensor] : stored) held += tensor.elements;
  if (described <= 2 * held) return;
  throw Error(ErrorCode::kTensorMismatch,
              fmt::format("{}: config.json describes {:.0f} parameters, the tensors hold {:.0f}",
                          folder.string(), described, held),
              hint_for_misfits(stored));
}

/// Fills `targets`, which are tensors of `model`.
void load_strictly(const CausalLM& model, const TensorMap& targets, const StoredTensors& stored,
                   const fs::path& origin, const std::string& hint) {
  TensorMismatches mismatches;
  for (const auto& [name, target] : targets) {
    const auto found = stored.find(name);
    if (found == stored.end()) {
      mismatches.add("missing", name);
    } else {
      mismatches.copy(target, found->second.load(), name);
    }
  }
  for (const auto& [name, tensor] : stored) {
    if (!targets.contains(name) && !may_be_ignored(model, name)) mismatches.add("unexpected", name);
  }
  const bool lacks_head = targets.contains(kLmHead) && !stored.contains(kLmHead);
  mismatches.finish(origin.string(), lacks_head ? kUntiedHint : hint);
}

PluginRequirement requirement_of(const PluginRef& plugin) {
  return {plugin.name, plugin.range, plugin.sha256};
}

// What a base and its drafts need beside the plugins of their modes.
void load_required_plugins(const CheckpointMetadata& metadata) {
  for (const auto& mode : metadata.modes) {
    for (const auto& plugin : mode.requirements) plugin_loader().load(requirement_of(plugin));
  }
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

void restore_mode(CausalLM& model, const ModeState& state, const StoredTensors& stored) {
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
  auto conversion = restored_within(total_bytes(stored), *mode.descriptor, model.base_info(),
                                    schema.resolve(config), state.metadata);
  auto restored = state;
  if (state.plugin.version.empty()) record_as_own(restored, mode.plugin, conversion);
  restored.config = conversion.config;
  restored.config_version = schema.version();
  model.attach(std::move(conversion), std::move(restored));
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

void check_base(const CausalLM& model, const Json& recorded, const fs::path& origin,
                const std::string& hint) {
  const auto& config = model.config();
  const std::pair<const char*, Json> expected[] = {{"architecture", config.architecture},
                                                   {"hidden_size", config.hidden_size},
                                                   {"num_hidden_layers", config.num_hidden_layers},
                                                   {"vocab_size", config.vocab_size}};
  std::vector<std::string> problems;
  if (const auto& hash = model.weights_sha256();
      !hash.empty() && recorded.value(kWeightsKey, Json(hash)) != hash) {
    problems.push_back("the base's weights are not those that were converted");
  }
  for (const auto& [key, value] : expected) {
    if (recorded.contains(key) && recorded[key] != value) {
      problems.push_back(fmt::format("{} is {} in the base's config.json, {} in the recorded state",
                                     key, value.dump(), printable(recorded[key].dump())));
    }
  }
  if (problems.empty()) return;
  throw Error(ErrorCode::kIncompatibleCheckpoint,
              fmt::format("{}: {}", origin.string(), join(problems, "; ")), hint);
}

Json base_identity(const CausalLM& model) {
  const auto& config = model.config();
  Json identity = {{"architecture", config.architecture},
                   {"hidden_size", config.hidden_size},
                   {"num_hidden_layers", config.num_hidden_layers},
                   {"vocab_size", config.vocab_size},
                   {"config_sha256", sha256_of(config.raw.dump())}};
  const bool unchanged = model.has_edit(BaseEdit::kFreezeParameters);
  if (unchanged && !model.weights_sha256().empty()) {
    identity[kWeightsKey] = model.weights_sha256();
  }
  return identity;
}

/// Every parameter and buffer of the attached drafts, under checkpoint names.
TensorMap draft_tensors(const CausalLM& model) {
  auto tensors = checkpoint_tensors(model);
  std::erase_if(tensors, [&](const auto& item) { return !belongs_to_a_draft(model, item.first); });
  return tensors;
}

/// The tensors of a folder, and its config as they have it. Where it holds drafts only, with the
/// tensors of its base, which is checked.
StoredTensors with_base_tensors(ModelFiles& files, const fs::path& folder,
                                const LoadOptions& options) {
  for (const auto& note : files.tensors.notes()) {
    if (options.on_note) options.on_note(note);
  }
  auto stored = files.tensors.tensors();
  const auto reference = base_reference_of(folder);
  if (!reference && !options.base.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} holds its base: no other can be named", in_quotes(folder.string())),
                "leave --base out");
  }
  if (!reference) {
    files.config = settled_config(std::move(files.config), stored, options.on_note);
    return stored_tensors(with_tied_embedding(std::move(stored), files.config));
  }
  const auto base = reference->find(options.base);
  reference->require_same(stored_base_sha256(base, files.config), base);
  stored.merge(stored_base(base, files.config));
  return stored_tensors(stored);
}

CheckpointMetadata metadata_of(const CausalLM& model) {
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

struct Precision {
  at::ScalarType stored, computing;
  bool is_widened() const { return stored != computing; }
};

Precision precision_of(const ModelConfig& config, const LoadOptions& options) {
  if (options.dtype) return {*options.dtype, *options.dtype};
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
                                      const Precision& precision, at::Device device) {
  auto& registry = BaseModelRegistry::instance();
  const auto options = at::TensorOptions().device(device);
  if (precision.is_widened() && !fits_widened(stored, precision.computing)) {
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
void round_widened(const CausalLM& model, const StoredTypes& types) {
  const at::NoGradGuard no_grad;
  const auto tensors = checkpoint_tensors(model);
  for (const auto& [name, type] : types.tensors) tensors.at(name).copy_(tensors.at(name).to(type));
}

}  // namespace

std::shared_ptr<CausalLM> from_pretrained(const fs::path& folder, const LoadOptions& options) {
  require_folder(folder, kModelFolderHint);
  const auto metadata = read_metadata(folder, options.reference_numerics);
  load_required_plugins(metadata);
  auto files = read_model_files(folder, buildable_config);
  const auto stored = with_base_tensors(files, folder, options);
  const auto& config = files.config;
  const bool offline = is_offline(config, stored, metadata);
  check_size(config, stored, offline, folder);
  const auto precision = precision_of(config, options);
  // Layers that are about to be dropped take no memory on the host as long as nothing is written.
  const auto model = create_base(config, stored, precision, offline ? at::kCPU : options.device);
  model->eval();
  identify_base(*model, metadata, stored, options.hash_weights);
  check_base(*model, metadata.base_model, folder,
             "config.json was replaced after the conversion: put the original back");
  for (const auto& state : metadata.modes) restore_mode(*model, state, stored);
  if (offline) model->to(options.device);
  load_strictly(*model, checkpoint_tensors(*model), stored, folder, hint_for_misfits(stored));
  if (precision.is_widened()) {
    model->set_stored_types({precision.stored, types_of_widened(*model, stored, precision.stored)});
    round_widened(*model, *model->stored_types());
  }
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

TensorMap checkpoint_tensors(const CausalLM& model) {
  TensorMap tensors;
  for (const auto& item : model.named_parameters()) tensors[item.key()] = item.value();
  for (const auto& item : model.named_buffers()) tensors[item.key()] = item.value();
  return tensors;
}

void save_pretrained(const CausalLM& model, const fs::path& folder, const SaveOptions& options) {
  AtomicDirectory directory(folder, options.replace);
  require_free(folder, "the model", saved_bytes(model, options),
               "free some space, or choose a folder on another disk");
  const auto tensors = options.base ? draft_tensors(model) : checkpoint_tensors(model);
  write_weights(directory.staging(), tensors_to_save(model, tensors), options.max_shard_size);
  auto config = model.config().raw;
  config.erase("torch_dtype");
  config["dtype"] = dtype_name(model.stored_dtype());
  write_json_file(directory.staging() / "config.json", config);
  if (!model.speculative_state().empty()) {
    auto metadata = metadata_of(model);
    if (options.base) metadata.base_model[kReferenceKey] = options.base->to_json();
    metadata.write(directory.staging());
    if (!options.base) write_modelopt_state(directory.staging(), metadata);
  }
  copy_companions(options.source, directory.staging());
  directory.commit();
}

uint64_t saved_bytes(const CausalLM& model, const SaveOptions& options) {
  uint64_t bytes = companion_bytes(options.source);
  for (const auto& [name, tensor] :
       options.base ? draft_tensors(model) : checkpoint_tensors(model)) {
    bytes += static_cast<uint64_t>(tensor.numel()) *
             c10::elementSize(type_in_files(model, name, tensor));
  }
  return bytes;
}

void save(const CausalLM& model, const fs::path& file) {
  const auto state = metadata_of(model).to_json();
  CheckpointMetadata::from_json(state, file.string());  // what restore() would refuse
  write_tensors(file, tensors_to_save(model, checkpoint_tensors(model)),
                {{kStateKey, state.dump()}});
}

void restore(CausalLM& base, const fs::path& file_or_folder,
             const std::optional<std::string>& numerics) {
  if (!base.speculative_state().empty()) {
    throw Error(
        ErrorCode::kAlreadyConverted,
        fmt::format("the model already has mode '{}'", base.speculative_state().front().state.mode),
        "restore onto the base model, as it was before conversion");
  }
  const auto stored = StoredModel::read(file_or_folder, numerics);
  const std::string hint = "restore onto the base model that was converted";
  check_base(base, stored.metadata.base_model, file_or_folder, hint);
  load_required_plugins(stored.metadata);
  const auto& recorded = stored.metadata.base_model;
  const bool drafts_only = recorded.contains(kReferenceKey);
  if (drafts_only) {
    BaseReference::from_json(recorded[kReferenceKey], file_or_folder.string())
        .require_same(base_weights_sha256(checkpoint_tensors(base)), "the given base");
  }
  for (const auto& state : stored.metadata.modes) restore_mode(base, state, stored.tensors);
  load_strictly(base, drafts_only ? draft_tensors(base) : checkpoint_tensors(base), stored.tensors,
                file_or_folder, hint);
  if (!drafts_only) identify_base(base, stored.metadata, stored.tensors, /*hash_if_unknown=*/false);
}

}  // namespace outrider
