#include "outrider/host/convert.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>

#include "allocation_budget.h"
#include "machine/memory.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/error.h"
#include "outrider/text.h"
#include "random_scope.h"

namespace outrider {
namespace {

const char* const kAcceptedForms =
    "accepted are a mode name, a list of names or [name, config] pairs, or {\"algorithm\": NAME, "
    "\"config\": {…}}";

ModeRequest::Item item_from_pair(const Json& pair) {
  if (pair.is_string()) return {pair.get<std::string>()};
  const bool fits = pair.is_array() && pair.size() == 2 && pair[0].is_string() &&
                    (pair[1].is_object() || pair[1].is_null());
  if (!fits) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("mode list: {} is no mode", printable(pair.dump())), kAcceptedForms);
  }
  return {pair[0].get<std::string>(), pair[1].is_null() ? Json::object() : pair[1]};
}

ModeRequest::Item item_from_preset(const Json& preset) {
  if (!preset.contains("algorithm") || !preset.contains("config") ||
      !preset["algorithm"].is_string() || !preset["config"].is_object()) {
    throw Error(ErrorCode::kInvalidArgument,
                "mode dictionary: 'algorithm' (a name) and 'config' (an object) are needed",
                kAcceptedForms);
  }
  return {preset["algorithm"].get<std::string>(), preset["config"]};
}

void check_options_were_used(const Conversion& conversion, const std::string& mode,
                             const ConvertOptions& options) {
  if (options.draft_vocabulary.defined() && !conversion.metadata.contains("draft_vocab_size")) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("mode '{}' knows no draft vocabulary", mode),
                "leave --draft-vocab out");
  }
  if (options.reference_numerics && !conversion.metadata.contains("reference_numerics")) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("mode '{}' knows no reference numerics", mode),
                "leave --reference-numerics out");
  }
}

struct DraftSize {
  double bytes = 0, parameters = 0;
  std::string largest;  // "NAME [SHAPE]"
};

DraftSize size_of(const Draft& draft) {
  DraftSize size;
  double most = 0;
  const auto add = [&](const auto& item) {
    const auto bytes = static_cast<double>(item.value().nbytes());
    size.bytes += bytes;
    if (bytes <= most) return;
    most = bytes;
    size.largest = fmt::format("{} [{}]", item.key(), fmt::join(item.value().sizes(), ","));
  };
  for (const auto& item : draft.named_parameters()) {
    size.parameters += static_cast<double>(item.value().numel());
    add(item);
  }
  for (const auto& item : draft.named_buffers()) add(item);
  return size;
}

/// The sizes that a config leads to, without their memory; nothing for a mode that looks at values
/// while it builds.
std::optional<DraftSize> planned_size(const ModeDescriptor& mode, BaseInfo base,
                                      const Json& config) {
  base.device = at::kMeta;
  const RandomScope random(0);  // the draft itself draws as if this had not been
  try {
    return size_of(*mode.convert(base, config).draft);
  } catch (const c10::Error&) {
    return std::nullopt;
  }
}

Error too_large(const std::string& mode, size_t memory, const std::string& details) {
  return Error(ErrorCode::kInvalidConfig,
               fmt::format("mode '{}': the draft that this config describes takes more than the "
                           "{:.1f} GB of memory that are free{}",
                           mode, static_cast<double>(memory) / 1e9, details),
               "`outrider mode show NAME` tells the sizes, such as intermediate_size");
}

void require_memory(const DraftSize& size, const std::string& mode, at::ScalarType dtype,
                    size_t memory) {
  if (size.bytes <= static_cast<double>(memory)) return;
  throw too_large(
      mode, memory,
      fmt::format(": {:.1f} GB, {:.0f} million parameters of {}, the largest in {}",
                  size.bytes / 1e9, size.parameters / 1e6, dtype_name(dtype), size.largest));
}

// A config may describe a draft of any size: it must not take the machine down with it.
Conversion built_within_memory(const ModeDescriptor& mode, const BaseInfo& base,
                               const Json& config) {
  const size_t memory = available_memory();
  if (base.device.is_cpu()) {
    const auto size = planned_size(mode, base, config);
    if (size) require_memory(*size, mode.name(), base.dtype, memory);
  }
  const AllocationBudget budget(memory, too_large(mode.name(), memory, ""));
  return mode.convert(base, config);
}

struct Prepared {
  Conversion conversion;
  ModeState state;
};

Prepared prepare(const CausalLM& model, const ModeRequest::Item& item,
                 const ConvertOptions& options) {
  auto& loader = plugin_loader();
  const auto& mode = loader.load_mode(item.mode);
  loader.load_draft_model(item.mode, model.config().architecture);
  const auto config = mode.descriptor->config_schema().resolve(item.config);
  auto base = model.base_info();
  base.draft_vocabulary = options.draft_vocabulary;
  base.reference_numerics = options.reference_numerics.value_or("");
  const RandomScope random(options.seed);
  auto conversion = built_within_memory(*mode.descriptor, base, config);
  check_options_were_used(conversion, item.mode, options);
  conversion.metadata["seed"] = options.seed;
  ModeState state{item.mode,
                  mode.plugin.reference(),
                  mode.descriptor->config_schema().version(),
                  conversion.config,
                  conversion.metadata,
                  loader.requirements(item.mode, model.config().architecture)};
  return {std::move(conversion), std::move(state)};
}

void check_vocabulary(const CausalLM& model, const at::Tensor& ids) {
  if (!ids.defined()) return;
  const auto bad = at::logical_or(ids < 0, ids >= model.config().vocab_size).any().item<bool>();
  const bool increasing = ids.numel() < 2 || ids.diff().gt(0).all().item<bool>();
  if (bad || !increasing) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the draft vocabulary must be strictly increasing token ids below {}",
                            model.config().vocab_size));
  }
}

std::vector<Prepared> prepare_all(const CausalLM& model, const ModeRequest& mode,
                                  const ConvertOptions& options) {
  check_vocabulary(model, options.draft_vocabulary);
  std::vector<Prepared> prepared;
  for (const auto& item : mode.items) prepared.push_back(prepare(model, item, options));
  std::vector<const Conversion*> all;
  for (const auto& one : prepared) all.push_back(&one.conversion);
  model.check_attachable(all);
  return prepared;
}

}  // namespace

ModeRequest::ModeRequest(const std::string& mode) {
  if (!mode.empty()) items.push_back({mode});
}

ModeRequest ModeRequest::from_json(const Json& mode) {
  if (mode.is_null()) return ModeRequest("");
  if (mode.is_string()) return ModeRequest(mode.get<std::string>());
  if (mode.is_object()) return ModeRequest(std::vector<Item>{item_from_preset(mode)});
  if (!mode.is_array()) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{} is no mode", printable(mode.dump())),
                kAcceptedForms);
  }
  std::vector<Item> items;
  for (const auto& entry : mode) items.push_back(item_from_pair(entry));
  return ModeRequest(std::move(items));
}

namespace speculative {

CausalLM& convert(CausalLM& model, const ModeRequest& mode, const ConvertOptions& options) {
  auto prepared = prepare_all(model, mode, options);
  for (auto& one : prepared) {
    for (const auto& note : one.conversion.notes) {
      if (options.on_note) options.on_note(note);
    }
    if (!model.device().is_meta()) one.conversion.draft->initialize(model);
  }
  for (auto& one : prepared) model.attach(one.conversion, std::move(one.state));
  return model;
}

std::vector<PlannedMode> plan(const CausalLM& model, const ModeRequest& mode,
                              const ConvertOptions& options) {
  std::vector<PlannedMode> planned;
  for (auto& one : prepare_all(model, mode, options)) {
    planned.push_back({std::move(one.state.config), std::move(one.state.metadata),
                       std::move(one.conversion.notes)});
  }
  return planned;
}

}  // namespace speculative
}  // namespace outrider
